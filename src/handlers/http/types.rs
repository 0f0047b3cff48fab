//! The media type of a file, by the ending of its name. RFC 9110, 8.3
//!
//! The types are those of Debian's `media-types` (/etc/mime.types), which follows the registry
//! of IANA; a test compares them where that list is installed. Source code and the like is plain
//! text here, so that a browser shows it.

use std::ffi::OsStr;
use std::path::Path;

/// The type of a file with this name, with a character set for text: UTF-8, except for XML,
/// which declares its own.
pub(super) fn of(name: &Path) -> (&'static str, &'static str) {
    let known = name.extension().and_then(of_ending).unwrap_or("application/octet-stream");
    (known, if known.starts_with("text/") { "; charset=utf-8" } else { "" })
}

fn of_ending(ending: &OsStr) -> Option<&'static str> {
    let is_it = |endings: &str| endings.split(' ').any(|known| ending.eq_ignore_ascii_case(known));
    TYPES.iter().find(|(_, endings)| is_it(endings)).map(|(of, _)| *of)
}

#[rustfmt::skip] // one row a type
const TYPES: [(&str, &str); 95] = [
    ("text/html", "html htm"),
    ("text/css", "css"),
    ("text/javascript", "js mjs"),
    ("text/plain", "txt text log conf cfg ini toml yaml yml rs c h cc cpp hpp go py rb pl lua java sh ts tsx tex bib diff patch srt"),
    ("text/markdown", "md markdown"),
    ("text/csv", "csv"),
    ("text/tab-separated-values", "tsv"),
    ("text/calendar", "ics"),
    ("text/vcard", "vcf"),
    ("text/vtt", "vtt"),
    ("application/xhtml+xml", "xhtml xht"),
    ("application/xml", "xml"),
    ("application/xslt+xml", "xsl xslt"),
    ("application/xml-dtd", "dtd"),
    ("application/atom+xml", "atom"),
    ("application/rss+xml", "rss"),
    ("application/dash+xml", "mpd"),
    ("application/json", "json map"),
    ("application/ld+json", "jsonld"),
    ("application/geo+json", "geojson"),
    ("application/manifest+json", "webmanifest"),
    ("application/wasm", "wasm"),
    ("application/pdf", "pdf"),
    ("application/rtf", "rtf"),
    ("application/postscript", "ps eps"),
    ("application/epub+zip", "epub"),
    ("application/msword", "doc"),
    ("application/vnd.ms-excel", "xls"),
    ("application/vnd.ms-powerpoint", "ppt"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    ("application/vnd.openxmlformats-officedocument.presentationml.presentation", "pptx"),
    ("application/vnd.oasis.opendocument.text", "odt"),
    ("application/vnd.oasis.opendocument.spreadsheet", "ods"),
    ("application/vnd.oasis.opendocument.presentation", "odp"),
    ("application/zip", "zip"),
    ("application/gzip", "gz tgz"),
    ("application/x-bzip2", "bz2"),
    ("application/x-xz", "xz"),
    ("application/zstd", "zst"),
    ("application/x-tar", "tar"),
    ("application/x-7z-compressed", "7z"),
    ("application/vnd.rar", "rar"),
    ("application/java-archive", "jar"),
    ("application/vnd.android.package-archive", "apk"),
    ("application/vnd.debian.binary-package", "deb"),
    ("application/x-redhat-package-manager", "rpm"),
    ("application/x-iso9660-image", "iso"),
    ("application/x-apple-diskimage", "dmg"),
    ("application/x-bittorrent", "torrent"),
    ("application/sql", "sql"),
    ("application/vnd.sqlite3", "sqlite"),
    ("application/cbor", "cbor"),
    ("application/pgp-keys", "asc"),
    ("application/pgp-signature", "sig"),
    ("application/pem-certificate-chain", "pem"),
    ("application/x-x509-ca-cert", "crt"),
    ("application/pkix-crl", "crl"),
    ("application/vnd.apple.mpegurl", "m3u8"),
    ("application/vnd.ms-fontobject", "eot"),
    ("font/woff2", "woff2"),
    ("font/woff", "woff"),
    ("font/ttf", "ttf"),
    ("font/otf", "otf"),
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/apng", "apng"),
    ("image/jpeg", "jpg jpeg jfif"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("image/avif", "avif"),
    ("image/jxl", "jxl"),
    ("image/heic", "heic"),
    ("image/bmp", "bmp"),
    ("image/tiff", "tif tiff"),
    ("image/vnd.djvu", "djvu"),
    ("image/vnd.microsoft.icon", "ico"),
    ("audio/mpeg", "mp3"),
    ("audio/ogg", "ogg oga opus"),
    ("audio/wav", "wav"),
    ("audio/flac", "flac"),
    ("audio/mp4", "m4a"),
    ("audio/aac", "aac"),
    ("audio/webm", "weba"),
    ("video/mp4", "mp4 m4v"),
    ("video/webm", "webm"),
    ("video/ogg", "ogv"),
    ("video/mpeg", "mpg mpeg"),
    ("video/quicktime", "mov"),
    ("video/x-matroska", "mkv"),
    ("video/x-msvideo", "avi"),
    ("model/gltf-binary", "glb"),
    ("model/gltf+json", "gltf"),
    ("model/stl", "stl"),
    ("model/obj", "obj"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn types() {
        for (name, due) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a.b/PAGE.XHTML", "application/xhtml+xml"),
            ("feed.xml", "application/xml"),
            ("feed.atom", "application/atom+xml"),
            ("x_1.0_all.deb", "application/vnd.debian.binary-package"),
            ("linux.tar.xz", "application/x-xz"),
            ("README", "application/octet-stream"),
            ("html", "application/octet-stream"),
            ("x.", "application/octet-stream"),
            ("x.ht", "application/octet-stream"),
        ] {
            let (of, charset) = of(Path::new(name));
            assert_eq!(format!("{of}{charset}"), due, "{name}");
        }
    }

    /// Each difference from Debian's list is listed here.
    #[test]
    fn as_debian_has_them() {
        let Ok(list) = std::fs::read_to_string("/etc/mime.types") else { return };
        let mut theirs = BTreeMap::new();
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let of = words.next().unwrap_or_default();
            theirs.extend(words.map(|ending| (ending, of)));
        }
        let ours =
            TYPES.iter().flat_map(|(of, endings)| endings.split(' ').map(move |it| (it, of)));
        let differ =
            ours.filter(|(ending, of)| theirs.get(ending).is_some_and(|their| their != *of));
        let differ: Vec<_> = differ.filter(|(_, of)| **of != "text/plain").collect();
        let due =
            [("rss", &"application/rss+xml"), ("tgz", &"application/gzip"), ("wav", &"audio/wav")];
        assert_eq!(differ, due);
    }
}
