//! What a declaration of transitions becomes: methods of `Life`, and the table that the chapter
//! on closing prints.

/// An arrow of the diagram: what leads from which state to which.
#[doc(hidden)]
#[derive(Debug)]
pub struct Transition {
    /// The name of the event.
    pub event: &'static str,
    /// When it happens, in a sentence.
    pub when: &'static str,
    /// The state it finds.
    pub from: &'static str,
    /// The state it leads to.
    pub to: &'static str,
}

/// Makes each event a method of [`Life`], and all of them a table.
///
/// An arm is read from the top: the first whose state, fields and condition fit is taken. In
/// a state that is not named the event changes nothing.
macro_rules! transitions {
    ($(
        #[doc = $when:literal]
        $event:ident($($name:ident: $Type:ty),*) {
            $($From:ident $known:tt $(if $condition:expr)? => $To:ident $made:tt;)+
        }
    )+) => {
        impl Life {
            $(
                #[doc = $when]
                pub(crate) fn $event(&mut self $(, $name: $Type)*) {
                    let next = match &mut self.0 {
                        $(State::$From $known $(if $condition)? => {
                            #[cfg(feature = "sim")]
                            $crate::connection::transitions::count(stringify!($From), stringify!($To));
                            State::$To $made
                        })+
                        #[allow(unreachable_patterns, reason = "some events concern all states")]
                        _ => return,
                    };
                    self.0 = next;
                }
            )+
        }

        /// All arrows of the diagram, in the order of their declaration.
        #[doc(hidden)]
        pub const TRANSITIONS: &[Transition] = &[$($(
            Transition {
                event: stringify!($event),
                when: $when,
                from: stringify!($From),
                to: stringify!($To),
            },
        )+)+];
    };
}

pub(super) use transitions;

/// Arrows, from which state to which, and how often each was taken.
#[cfg(feature = "sim")]
type Taken = [(&'static str, &'static str, u64); 32];

#[cfg(feature = "sim")]
thread_local! {
    /// It never grows: some tests let each allocation fail.
    static TAKEN: std::cell::RefCell<Taken> = const { std::cell::RefCell::new([("", "", 0); 32]) };
}

#[cfg(feature = "sim")]
pub(crate) fn count(from: &'static str, to: &'static str) {
    TAKEN.with_borrow_mut(|taken| {
        let mut arrows = taken.iter_mut();
        if let Some(arrow) = arrows.find(|it| it.2 == 0 || (it.0, it.1) == (from, to)) {
            *arrow = (from, to, arrow.2 + 1);
        }
    });
}

/// How often each arrow was taken on this thread since the last call: what the drawing of the
/// states counts.
#[cfg(feature = "sim")]
#[doc(hidden)]
pub fn taken() -> Vec<(&'static str, &'static str, u64)> {
    let taken = TAKEN.replace([("", "", 0); 32]);
    taken.into_iter().filter(|arrow| arrow.2 > 0).collect()
}
