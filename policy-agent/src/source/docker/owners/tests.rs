use super::*;

const A: &str = "b7ebfe9cd72cf86fa558c674537c9ba5934eb3a7e63a2becdffdff727ffe0b01";
const B: &str = "d32132be9fcaae4727bfb498566ba3cc0eb9cd3c278acd09714a4c831affcba9";

#[test]
fn container_id_from_cgroups() {
    for (cgroups, expected) in [
        // cgroupfs driver, hybrid hierarchy.
        (format!("9:name=systemd:/docker/{A}\n8:pids:/docker/{A}\n0::/docker/{A}\n"), Some(A)),
        // systemd driver, unified hierarchy.
        (format!("0::/system.slice/docker-{A}.scope\n"), Some(A)),
        (format!("0::/custom/parent/{A}\n"), Some(A)),
        // A cgroup that the container made for itself, named after another one.
        (format!("0::/docker/{A}/{B}\n"), Some(A)),
        (format!("0::/docker/{A}/docker/{B}/init\n"), Some(A)),
        // Contradiction.
        (format!("8:pids:/docker/{A}\n0::/docker/{B}\n"), None),
        // A hierarchy that does not separate containers says nothing.
        (format!("8:pids:/\n0::/docker/{A}\n"), Some(A)),
        ("0::/user.slice/session-1.scope\n".to_owned(), None),
        (format!("0::/docker/{}\n", &A[1..]), None),
        (format!("0::/docker/{}\n", A.to_uppercase()), None),
        (String::new(), None),
    ] {
        assert_eq!(container_id(&cgroups), expected, "{cgroups}");
    }
}
