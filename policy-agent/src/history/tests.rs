use std::{collections::BTreeMap, fs, path::Path};

use policy_api::{
    flow::{Condition, Field, FlowEnd, FlowFilter, FlowRecord, Side},
    messages::Verdict,
};
use policy_core::observe::Filter;

use super::*;

const BOUNDS: Bounds = Bounds { size: 1 << 20, age: Duration::from_secs(3600) };

/// A record of `second`s after 2026-11-21, from a workload of a name.
fn record(second: u64, name: &str) -> Arc<FlowRecord> {
    let end = |name: &str, port| FlowEnd {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        ip: None,
        port,
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
    };
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200 + second);
    Arc::new(FlowRecord {
        time: humantime::format_rfc3339_micros(time).to_string(),
        event: "drop".to_owned(),
        verdict: Verdict::Deny,
        reason: "policy".to_owned(),
        direction: "ingress".to_owned(),
        source: end(name, 0),
        destination: end("db", 5432),
        protocol: "tcp".to_owned(),
        icmp_type: None,
        icmp_code: None,
        tcp_flags: String::new(),
        rule: None,
        logged: Vec::new(),
        staged: None,
        bytes: second,
        traffic: None,
    })
}

fn blocks(range: std::ops::Range<u64>, name: &str) -> Vec<Arc<FlowRecord>> {
    range.map(|second| record(second, name)).collect()
}

fn opened(dir: &Path, bounds: Bounds) -> Shelf {
    let mut shelf = Shelf::new(dir.to_owned(), bounds);
    shelf.open().unwrap();
    shelf
}

fn past(shelf: &Shelf, unwritten: &[Arc<FlowRecord>]) -> crate::observer::Past {
    crate::observer::Past { segments: shelf.segments(), unwritten: unwritten.to_vec() }
}

/// The seconds of what is found; `None`: something was lost.
fn found(past: &crate::observer::Past, filter: &Filter, newest: Option<usize>) -> Vec<Option<u64>> {
    let mut all = Vec::new();
    search(
        past,
        filter,
        newest,
        || false,
        |found| {
            all.push(match found {
                Found::Line(line) => {
                    Some(serde_json::from_slice::<FlowRecord>(&line).unwrap().bytes)
                }
                Found::Lost(_) => None,
            });
            true
        },
    );
    all
}

fn from(name: &str) -> Filter {
    let condition =
        Condition { field: Field::Name, side: Side::Source, not: false, value: name.to_owned() };
    Filter::new(&FlowFilter { conditions: vec![condition], ..FlowFilter::default() }).unwrap()
}

fn since(since: u64, until: u64) -> Filter {
    let time = |second| Some(record(second, "").time.clone());
    Filter::new(&FlowFilter { since: time(since), until: time(until), ..FlowFilter::default() })
        .unwrap()
}

fn seconds(range: std::ops::Range<u64>) -> Vec<Option<u64>> {
    range.map(Some).collect()
}

#[test]
fn what_is_written_is_found_again_by_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.write(&blocks(0..100, "web")).unwrap();
    shelf.write(&blocks(100..200, "api")).unwrap();
    let unwritten = blocks(200..210, "web");
    for shelf in [shelf, opened(dir.path(), BOUNDS)] {
        let past = past(&shelf, &unwritten);
        assert_eq!(found(&past, &Filter::default(), None), seconds(0..210));
        assert_eq!(found(&past, &Filter::default(), Some(15)), seconds(195..210));
        assert_eq!(found(&past, &from("api"), None), seconds(100..200));
        assert_eq!(found(&past, &from("api"), Some(3)), seconds(197..200));
        let web: Vec<_> = seconds(0..100).into_iter().chain(seconds(200..210)).collect();
        assert_eq!(found(&past, &from("web"), None), web);
        assert_eq!(found(&past, &from("web"), Some(12)), web[98..]);
        assert_eq!(found(&past, &from("nobody"), None), []);
        assert_eq!(found(&past, &since(90, 205), None), seconds(90..205));
        assert_eq!(found(&past, &since(90, 205), Some(10)), seconds(195..205));
        assert_eq!(shelf.here().records, 200);
    }
}

#[test]
fn zstd_reads_a_file_and_so_does_observe() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.write(&blocks(0..10, "web")).unwrap();
    shelf.write(&blocks(10..20, "we\u{1b}b")).unwrap();
    let file = fs::File::open(&shelf.segments()[0].path).unwrap();
    let text = std::io::read_to_string(zstd::Decoder::new(file).unwrap()).unwrap();
    let read: Vec<u64> =
        text.lines().map(|line| serde_json::from_str::<FlowRecord>(line).unwrap().bytes).collect();
    assert_eq!(read, (0..20).collect::<Vec<_>>());
    assert!(!text.contains('\u{1b}'), "nothing that a terminal obeys");
}

#[test]
fn half_a_block_is_no_part_of_the_history_and_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.write(&blocks(0..50, "web")).unwrap();
    let path = shelf.segments()[0].path.clone();
    let whole = fs::metadata(&path).unwrap().len();
    shelf.write(&blocks(50..100, "web")).unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in [whole + 1, whole + 55, whole + 57, bytes.len() as u64 - 1] {
        fs::write(&path, &bytes[..usize::try_from(length).unwrap()]).unwrap();
        let mut shelf = opened(dir.path(), BOUNDS);
        assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), seconds(0..50), "{length}");
        shelf.write(&blocks(50..60, "api")).unwrap();
        let again = opened(dir.path(), BOUNDS);
        assert_eq!(found(&past(&again, &[]), &Filter::default(), None), seconds(0..60), "{length}");
        fs::remove_file(&again.segments()[1].path).unwrap();
    }
}

/// What says what a block holds would make a search pass it by.
#[test]
fn a_head_or_a_summary_that_has_changed_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.write(&blocks(0..50, "web")).unwrap();
    let path = shelf.segments()[0].path.clone();
    let whole = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    shelf.write(&blocks(50..100, "web")).unwrap();
    let bytes = fs::read(&path).unwrap();
    // Of the second block: both heads, then the summary.
    for place in (0..56 + 64).rev() {
        let mut bytes = bytes.clone();
        bytes[whole + place] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let shelf = opened(dir.path(), BOUNDS);
        let web = found(&past(&shelf, &[]), &from("web"), None);
        let expected = if place < 56 { seconds(0..50) } else { seconds(0..100) };
        assert_eq!(web, expected, "byte {place} of the block");
        assert_eq!(shelf.here().damaged > 0, place < 56, "byte {place} of the block");
    }
    // What is behind it may be looked at by hand, and is not written over.
    let mut shelf = opened(dir.path(), BOUNDS);
    let damaged = fs::read(&path).unwrap();
    shelf.write(&blocks(100..110, "web")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), damaged);
    let again = opened(dir.path(), BOUNDS);
    let expected = [seconds(0..50), seconds(100..110)].concat();
    assert_eq!(found(&past(&again, &[]), &from("web"), None), expected);
    // One of which nothing can be read is as old as its name says.
    fs::write(&path, "damaged").unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.trim(SystemTime::now());
    assert!(!path.exists());
}

#[test]
fn damage_is_told_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    shelf.write(&blocks(0..50, "web")).unwrap();
    let path = shelf.segments()[0].path.clone();
    let whole = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    shelf.write(&blocks(50..100, "web")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[whole - 20] ^= 0xff;
    fs::write(&path, &bytes).unwrap();
    let mut expected = vec![None];
    expected.extend(seconds(50..100));
    let shelf = opened(dir.path(), BOUNDS);
    assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), expected);
    // A file that went while somebody was reading.
    fs::remove_file(&path).unwrap();
    assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), [None, None]);
    // What others have put there is left alone.
    for name in ["00000000000000000001.jsonl.zst", "notes.txt", "1.jsonl.zst"] {
        fs::write(dir.path().join(name), "nothing of ours").unwrap();
    }
    let shelf = opened(dir.path(), BOUNDS);
    assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), []);
    assert!(dir.path().join("notes.txt").exists());
}

#[test]
fn a_file_at_a_time_goes_by_size_and_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { size: 16 * 4096, age: Duration::from_secs(10_000) };
    let mut shelf = opened(dir.path(), bounds);
    let mut written = 0;
    while shelf.segments().len() < 30 {
        shelf.write(&blocks(written..written + 20, "web")).unwrap();
        shelf.trim(SystemTime::UNIX_EPOCH);
        written += 20;
        let Here { records: count, bytes, .. } = shelf.here();
        assert!(bytes <= bounds.size && count <= written, "{bytes} bytes");
        if written > 5_000 {
            break;
        }
    }
    let count = shelf.here().records;
    assert!(count > 100 && count < written, "{count} of {written}");
    let here = found(&past(&shelf, &[]), &Filter::default(), None);
    assert_eq!(here, seconds(written - count..written), "the newest are there");
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, shelf.segments().len());

    let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200 + written);
    shelf.trim(newest + bounds.age - Duration::from_secs(count / 2));
    let left = shelf.here().records;
    assert!(left < count && left >= count / 2, "{left} of {count}");
    // All of it is too old: the file that is written stays.
    shelf.trim(newest + 10 * bounds.age);
    assert_eq!(shelf.segments().len(), 1);
}

/// A few records a day: what is too old goes all the same.
#[test]
fn a_quiet_host_keeps_no_more_than_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    let hours = 20;
    for minute in 0..hours * 60 {
        shelf.write(&blocks(60 * minute..60 * minute + 1, "web")).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200 + 60 * minute);
        shelf.trim(now);
    }
    let count = shelf.here().records;
    // An hour, and what of a file is older than that.
    assert!((60..=66).contains(&count), "{count}");
}

#[test]
fn a_record_from_the_future_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut shelf = opened(dir.path(), BOUNDS);
    let future = 1_000_000_000;
    for start in [future, 0, 300, 600] {
        shelf.write(&blocks(start..start + 1, "web")).unwrap();
    }
    shelf.trim(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200 + 301) + BOUNDS.age);
    assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), [Some(future), Some(600)]);
}

/// The clock of a host jumps back: what is written then comes after what is there.
#[test]
fn a_clock_that_is_put_back_mixes_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { size: 16, ..BOUNDS };
    let mut shelf = Shelf::new(dir.path().to_owned(), bounds);
    for start in [1000, 500, 0] {
        shelf.write(&blocks(start..start + 10, "web")).unwrap();
    }
    let shelf = opened(dir.path(), bounds);
    let order: Vec<_> = [1000, 500, 0].into_iter().flat_map(|it| seconds(it..it + 10)).collect();
    assert_eq!(found(&past(&shelf, &[]), &Filter::default(), None), order);
    assert_eq!(found(&past(&shelf, &[]), &since(500, 505), None), seconds(500..505));
}

#[test]
fn records_are_found_once_before_while_and_after_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let standing = Arc::<Standing>::default();
    let observer = Observer::new(Some(Arc::clone(&standing)));
    let folder = dir.path().join("history");
    let total = 3 * BLOCK as u64;
    // The records are not of today.
    let ages = Bounds { age: Duration::from_secs(100 * 365 * 86_400), ..BOUNDS };
    let history = History::start(&folder, ages, observer.clone(), Arc::clone(&standing)).unwrap();
    for second in 0..total {
        observer.take(record(second, "web"));
        if second % 1000 == 0 {
            let (past, _live) = observer.survey();
            let found = found(&past, &Filter::default(), None);
            assert!(found == seconds(0..second + 1), "{} of {second}", found.len());
        }
    }
    let (past, _live) = observer.survey();
    assert!(found(&past, &Filter::default(), None) == seconds(0..total));
    drop(history);
    assert_eq!(standing.ledger.written(), total);
    assert_eq!(opened(&folder, BOUNDS).here().records, total);
    assert!(standing.component().healthy, "{:?}", standing.component());
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_costs_records_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("file");
    fs::write(&folder, "no folder").unwrap();
    let standing = Arc::<Standing>::default();
    let observer = Observer::new(Some(Arc::clone(&standing)));
    let history = History::start(&folder, BOUNDS, observer.clone(), Arc::clone(&standing)).unwrap();
    for second in 0..10 {
        observer.take(record(second, "web"));
    }
    drop(history);
    assert_eq!(standing.ledger.lost(), 10);
    let component = standing.component();
    assert!(!component.healthy && component.detail.contains("10 left out"), "{component:?}");
}

/// Nobody writes: the newest wait, and the others are counted.
#[test]
fn what_waits_is_bounded() {
    let standing = Arc::<Standing>::default();
    let observer = Observer::new(Some(Arc::clone(&standing)));
    for second in 0..20_000 {
        observer.take(record(second, "web"));
    }
    let (past, _live) = observer.survey();
    assert_eq!(past.unwritten.len(), 4 * BLOCK);
    assert_eq!(standing.ledger.lost(), 20_000 - 4 * BLOCK as u64);
    // A batch whose beginning has had to give way takes the rest with it.
    let batch = observer.unwritten(10, Duration::ZERO, || false);
    for second in 0..5 {
        observer.take(record(second, "web"));
    }
    observer.written(&batch, Vec::new());
    assert_eq!(observer.survey().0.unwritten.len(), 4 * BLOCK - 5);
}
