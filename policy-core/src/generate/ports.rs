//! Ports to ranges.

/// Ranges of at least so many ports are written as ranges.
const RUN: u16 = 3;

/// First and last of the runs in sorted ports; runs of one or two are single ports.
pub(super) fn runs(ports: impl IntoIterator<Item = u16>) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => runs.push((port, port)),
        }
    }
    let single = |(first, last): (u16, u16)| {
        let short = last - first < RUN - 1;
        let ports = if short { first..=last } else { first..=first };
        ports.map(move |port| (port, if short { port } else { last }))
    };
    runs.into_iter().flat_map(single).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_is_in_a_range() {
        for (ports, expected) in [
            (&[][..], &[][..]),
            (&[80], &[(80, 80)]),
            (&[80, 81, 443], &[(80, 80), (81, 81), (443, 443)]),
            (&[80, 81, 82, 84], &[(80, 82), (84, 84)]),
            (&[1, 65533, 65534, 65535], &[(1, 1), (65533, 65535)]),
        ] {
            assert_eq!(runs(ports.iter().copied()), expected);
        }
    }
}
