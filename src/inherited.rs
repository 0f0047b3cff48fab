//! The sockets that this process was started with, as the environment names them. sd_listen_fds(3)
//!
//! A service manager opens a listening socket, keeps it, and passes it on to each process that
//! it starts: as the descriptors from 3 on. LISTEN_PID says to whom, LISTEN_FDS how many, and
//! LISTEN_FDNAMES what they are called. What is passed to another process is none of ours. The
//! environment stays as it is: a child that reads it has another number.

use std::env::{VarError, var};

/// The first that is passed; those before it are the standard streams.
const FIRST: i32 = 3;
/// More are never passed, and a wrong number is no reason to count for long.
const MOST: i32 = 4_096;

/// A socket that was passed: its descriptor, and its name.
pub(crate) type Passed = (i32, String);

/// All that were passed to this process, in order.
pub(crate) fn passed() -> Vec<Passed> {
    let number = |text: Result<String, VarError>| text.ok()?.parse::<i32>().ok();
    let is_ours = number(var("LISTEN_PID")) == i32::try_from(std::process::id()).ok();
    let count = number(var("LISTEN_FDS")).filter(|_| is_ours).unwrap_or(0);
    named(count, &var("LISTEN_FDNAMES").unwrap_or_default())
}

/// So many descriptors, with these names as far as they reach.
fn named(count: i32, names: &str) -> Vec<Passed> {
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    (FIRST..FIRST + count.clamp(0, MOST)).zip(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_reach_as_far_as_they_do() {
        let all = |count, names| {
            let all = named(count, names).into_iter();
            all.map(|(number, name)| format!("{number}{name}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all(2, "web:admin"), "3web 4admin");
        assert_eq!(all(3, "web"), "3web 4 5");
        assert_eq!(all(1, "web:admin"), "3web");
        assert_eq!(all(1, ""), "3");
        assert_eq!((all(0, "web"), all(-7, "web")), (String::new(), String::new()));
        assert_eq!(named(i32::MAX, "").len(), MOST as usize);
    }

    #[test]
    fn nothing_is_passed_to_the_tests() {
        assert_eq!(passed(), []);
    }
}
