//! Which panels are drawn.
//!
//! Outputs: for each picture its dashboard, what is chosen at its head, and titles of panels, row by row.

/// One picture.
pub(super) struct Page {
    /// The dashboard's uid.
    pub(super) uid: &'static str,
    /// The file's name.
    pub(super) file: &'static str,
    pub(super) choice: &'static [(&'static str, &'static str)],
    pub(super) rows: &'static [&'static [&'static str]],
}

/// Those that tell what happened in the shop.
pub(super) const PAGES: [Page; 4] = [
    Page {
        uid: "palisade-overview",
        file: "overview.svg",
        choice: &[],
        rows: &[
            &[
                "Hosts",
                "Endpoints enforced",
                "Endpoints not enforced",
                "Flows let through",
                "Packets dropped",
            ],
            &["Flows per second", "Bytes per second"],
            &["Drops per second, by reason", "Endpoints by state"],
            &["Top talkers", "Top dropped pairs"],
        ],
    },
    Page {
        uid: "palisade-drops",
        file: "drops.svg",
        choice: &[],
        rows: &[
            &["Packets dropped", "Bytes dropped", "Dropped by default", "Forged packets"],
            &["By rule", "By reason"],
            &["By source workload", "By port"],
            &["Dropped flows"],
        ],
    },
    Page {
        uid: "palisade-workload",
        file: "workload.svg",
        choice: &[("namespace", "shop"), ("workload", "api")],
        rows: &[
            &[
                "Flows to others",
                "Flows from others",
                "Packets dropped from it",
                "Packets dropped to it",
            ],
            &["Traffic of its own flows", "Traffic of others' flows"],
            &["Dropped from it, by rule", "Dropped to it, by rule"],
            &["It talks to", "Who talks to it"],
            &["Rules that let it through"],
            &["Dropped to it"],
        ],
    },
    Page {
        uid: "palisade-rollout",
        file: "rollout.svg",
        choice: &[],
        rows: &[
            &["Would be denied", "Would be allowed", "Would stay as they are"],
            &["Would be denied, by rule", "Would be allowed, by rule"],
            &["Staged verdicts"],
            &["Hits by rule"],
            &["Rules that have never hit"],
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboards::dashboard::Dashboard;

    #[test]
    fn each_panel_is_one_of_its_dashboard() {
        for Page { uid, rows, choice, .. } in PAGES {
            let dashboard = Dashboard::read(uid).unwrap();
            for title in rows.iter().copied().flatten() {
                assert!(dashboard.charts().any(|panel| panel.title == *title), "{uid}: {title}");
            }
            for (name, _) in choice {
                assert!(dashboard.variables().iter().any(|it| it.name == *name), "{uid}: {name}");
            }
        }
    }
}
