//! The dashboards as they stand in their files: published form, stable names, places, units, links.

use std::{collections::BTreeSet, fs};

use policy_test::dashboards::{
    dashboard::{Dashboard, UIDS},
    prometheus::examples,
};
use serde_json::json;

use crate::schema;

#[test]
fn the_dashboards_are_those_that_others_point_to() {
    let mut files: Vec<_> = fs::read_dir(examples("grafana"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect();
    files.sort_unstable();
    assert_eq!(files, UIDS);
    let all = Dashboard::all().unwrap();
    let titles: BTreeSet<_> = all.iter().map(|dashboard| &dashboard.title).collect();
    assert_eq!(titles.len(), UIDS.len());
    for (dashboard, uid) in all.iter().zip(UIDS) {
        assert_eq!(dashboard.uid, uid);
        assert!(dashboard.description.ends_with('.'), "{uid}");
        assert!(dashboard.schema_version >= 39, "{uid}: {}", dashboard.schema_version);
    }
}

#[test]
fn the_dashboards_have_the_published_form() {
    for uid in UIDS {
        let value = serde_json::from_str(&Dashboard::text(uid).unwrap()).unwrap();
        let breaches = schema::breaches(&value);
        assert!(breaches.is_empty(), "{uid}: {breaches:#?}");
    }
}

#[test]
fn panels_have_ids_places_and_words_of_their_own() {
    for dashboard in Dashboard::all().unwrap() {
        let panels = &dashboard.panels;
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel.id).collect();
        let titles: BTreeSet<_> = panels.iter().map(|panel| &panel.title).collect();
        assert_eq!((ids.len(), titles.len()), (panels.len(), panels.len()), "{}", dashboard.uid);
        for (index, panel) in panels.iter().enumerate() {
            let place = &panel.grid_pos;
            assert!(place.w > 0 && place.h > 0 && place.x + place.w <= 24, "{}", panel.title);
            for other in &panels[index + 1..] {
                assert!(!place.overlaps(&other.grid_pos), "{} and {}", panel.title, other.title);
            }
        }
        for panel in dashboard.charts() {
            let title = &panel.title;
            assert!(panel.description.ends_with('.'), "{title}: a description is whole sentences");
            let unit = &panel.field_config["defaults"]["unit"];
            assert!(unit.as_str().is_some_and(|unit| !unit.is_empty()), "{title}: no unit");
            assert!(!panel.targets.is_empty(), "{title}: no query");
            let references: BTreeSet<_> =
                panel.targets.iter().map(|target| &target.ref_id).collect();
            assert_eq!(references.len(), panel.targets.len(), "{title}: two queries of one name");
            for target in &panel.targets {
                assert!(!target.expr.is_empty() && target.instant != target.range, "{title}");
            }
        }
    }
}

#[test]
fn everything_asks_the_datasource_that_is_chosen() {
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    for dashboard in Dashboard::all().unwrap() {
        for panel in dashboard.charts() {
            assert_eq!(panel.datasource.as_ref(), Some(&chosen), "{}", panel.title);
            for target in &panel.targets {
                assert_eq!(target.datasource, chosen, "{} {}", panel.title, target.ref_id);
            }
        }
        let variables = dashboard.variables();
        assert_eq!((&*variables[0].name, &*variables[0].r#type), ("datasource", "datasource"));
        assert_eq!(variables[1].name, "instance");
        for variable in &variables[1..] {
            assert_eq!(variable.datasource.as_ref(), Some(&chosen), "{}", variable.name);
            assert_eq!(variable.r#type, "query", "{}", variable.name);
            let used = dashboard
                .charts()
                .flat_map(|panel| &panel.targets)
                .any(|target| target.expr.contains(&format!("${}\"", variable.name)));
            assert!(used, "{}: no query uses it", variable.name);
        }
        for variable in variables {
            assert!(!variable.label.is_empty(), "{}: no label", variable.name);
            assert!(variable.description.contains('.'), "{}: no description", variable.name);
        }
        // A host that is chosen is meant everywhere.
        for panel in dashboard.charts() {
            for target in &panel.targets {
                let selectors = target.expr.matches("palisade_").count()
                    + target.expr.matches("up{job=").count();
                let chosen = target.expr.matches("instance=~\"$instance\"").count();
                assert_eq!(selectors, chosen, "{}: {}", panel.title, target.expr);
            }
        }
    }
}

#[test]
fn each_dashboard_leads_to_the_others_and_keeps_what_is_chosen() {
    for dashboard in Dashboard::all().unwrap() {
        assert_eq!(dashboard.tags[0], "palisade", "{}", dashboard.uid);
        let [link] = &dashboard.links[..] else { panic!("{}: one list", dashboard.uid) };
        assert_eq!((&*link.r#type, &*link.tags), ("dashboards", &["palisade".to_owned()][..]));
        assert!(link.include_vars && link.keep_time, "{}", dashboard.uid);
    }
}

#[test]
fn workloads_in_tables_lead_to_their_dashboard() {
    let workload = Dashboard::read("palisade-workload").unwrap();
    let names: Vec<_> = workload.variables().iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["datasource", "instance", "namespace", "workload"]);
    let mut tables = 0;
    for dashboard in Dashboard::all().unwrap() {
        for panel in dashboard.charts() {
            let (columns, links) = (panel.columns(), panel.links());
            for end in ["source", "destination"] {
                let Some(&name) = columns.get(end) else { continue };
                let namespace = columns[&*format!("{end}_namespace")];
                let url = format!(
                    "/d/palisade-workload?var-namespace=${{__data.fields[\"{namespace}\"]}}\
                     &var-workload=${{__value.raw}}&${{datasource:queryparam}}\
                     &${{instance:queryparam}}&${{__url_time_range}}"
                );
                assert_eq!(links.get(name), Some(&&*url), "{}: {name}", panel.title);
                tables += 1;
            }
            // No other link, and none from a column that is not there.
            let ends = ["source", "destination"].iter().filter(|end| columns.contains_key(*end));
            assert_eq!(links.len(), ends.count(), "{}: {links:?}", panel.title);
        }
    }
    assert!(tables >= 10, "{tables}");
}
