// Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG AA), as they are computed.
(() => {
  const light = color => {
    const canvas = light.canvas ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return { a, l: 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) };
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const found = light(getComputedStyle(element).backgroundColor);
      if (found.a === 255) return found.l;
    }
    return 1;
  };
  const pale = new Set(), known = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || element.matches(".anchor, .skip, script") || !element.checkVisibility()) continue;
    const key = style.color + behind(element);
    if (!known.has(key)) {
      const [a, b] = [light(style.color).l, behind(element)].sort((a, b) => b - a);
      known.set(key, (a + 0.05) / (b + 0.05));
    }
    if (known.get(key) < 4.5) pale.add(`${element.tagName}.${element.className}: ${known.get(key).toFixed(2)}`);
  }
  return [...pale];
})()
