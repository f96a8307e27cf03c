//! Pictures of the dashboards: what they show of a small shop, drawn without Grafana.
//!
//! Inputs: root, Prometheus, an agent of the same build. Outputs: an SVG for each of [`pages::PAGES`].
//!
//! A real agent fences the shop, a real Prometheus scrapes it and answers the dashboards' own queries. So that
//! nobody waits for an hour, its clock runs [`CLOCK`] times faster: intervals, steps, and what rules look back.

mod answers;
mod canvas;
mod chart;
mod page;
mod pages;
mod server;
mod shop;
mod table;
mod units;

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    dashboards::{dashboard::Dashboard, prometheus::Prometheus},
    pictures::{
        answers::{Asker, Picture},
        page::Sheet,
        pages::{PAGES, Page},
        shop::Shop,
    },
    wait,
};

/// How much faster than the examples everything is: they scrape each 15 s.
const CLOCK: u32 = 15;
const SCRAPE_MS: u32 = 15_000 / CLOCK;
const LOOK_BACK_MS: u32 = 300_000 / CLOCK;
/// What is shown.
const SECONDS: u32 = 90;
/// What rules have looked back to before, with some scrapes.
const WARM_UP: u32 = LOOK_BACK_MS / 1000 + 5;
/// Until the last of what happened is read, scraped and recorded.
const SETTLE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(30);

/// Plays what the pictures show, and writes them into `folder`, which is made if it is not there.
///
/// # Errors
/// If the lab, the agent or Prometheus cannot be had, if a query is refused, or if a file cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    let shop = Shop::open()?;
    let prometheus = Prometheus::start(&shop.lab, Duration::from_millis(SCRAPE_MS.into()))?;
    prometheus.look_back(LOOK_BACK_MS)?;
    wait::until("the first scrape", LIMIT, || {
        let up = prometheus.now().and_then(|now| prometheus.query("up == 1", now));
        up.is_ok_and(|answer| !answer.is_empty())
    })?;
    println!("{} s of a shop, its agent and Prometheus", WARM_UP + SECONDS);
    shop.warm_up(WARM_UP)?;
    let start = prometheus.now()?;
    shop.trade(SECONDS)?;
    thread::sleep(SETTLE);
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for page in PAGES {
        let svg = draw(&page, &prometheus, start).with_context(|| page.uid)?;
        let path = folder.join(page.file);
        fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn draw(page: &Page, prometheus: &Prometheus, start: f64) -> Result<String> {
    let dashboard = Dashboard::read(page.uid)?;
    let asker = Asker {
        prometheus,
        dashboard: &dashboard,
        choice: page.choice.iter().copied().collect(),
        start,
        length_ms: SECONDS * 1000,
    };
    let row = |titles: &&[&str]| titles.iter().map(|title| asker.picture(title)).collect();
    let rows = page.rows.iter().map(row).collect::<Result<Vec<Vec<Picture>>>>()?;
    let chosen: Vec<_> =
        page.choice.iter().map(|(name, value)| format!("{name} {value}")).collect();
    Sheet { title: &dashboard.title, chosen: &chosen.join(", "), rows: &rows }.draw()
}
