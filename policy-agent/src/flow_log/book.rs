//! A file of lines that is turned over: by size, by age, and so that only the newest stay.
//!
//! Written by hand, as the crates that do this turn over by size or by age and not by both, and none
//! takes back the half of a line that a full disk has let through.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use tracing::warn;

/// Bounds of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A file that has so many bytes is turned over.
    pub size: u64,
    /// A file that is so old is turned over.
    pub age: Duration,
    /// Files that stay beside the one that is written.
    pub files: usize,
    /// Those are compressed, by zstd (RFC 8878).
    pub compress: bool,
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    bounds: Bounds,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    begun: SystemTime,
}

impl Book {
    pub(super) fn new(path: PathBuf, bounds: Bounds) -> Book {
        Book { path, bounds, open: None }
    }

    /// Writes whole lines, which `now` is the time of.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, written or turned over. None of the lines is in it then, and the next
    /// call begins by opening it again.
    pub(super) fn write(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        let written = self.try_write(lines, now);
        if written.is_err() {
            self.open = None;
        }
        written
    }

    fn try_write(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::at(&self.path, now)?,
        };
        // A clock that has been put back makes a file no older.
        let age = now.duration_since(open.begun).unwrap_or_default();
        let is_full = open.length > 0 && open.length + lines.len() as u64 > self.bounds.size;
        if is_full || open.length > 0 && age >= self.bounds.age {
            self.turn_over(now)?;
            open = Open::at(&self.path, now)?;
        }
        if let Err(error) = open.file.write_all(lines) {
            // So that what comes next does not go on in the middle of a line.
            open.file.set_len(open.length)?;
            return Err(error);
        }
        open.length += lines.len() as u64;
        self.open = Some(open);
        Ok(())
    }

    /// Gives the file a name of its own, and removes the oldest of those that have one.
    fn turn_over(&self, now: SystemTime) -> io::Result<()> {
        let mut to = self.turned(now, 0);
        let mut again = 1;
        while to.exists() {
            to = self.turned(now, again);
            again += 1;
        }
        fs::rename(&self.path, &to)?;
        if self.bounds.compress {
            // Beside what goes on being written. What cannot be compressed stays as it is.
            let compress = move || {
                if let Err(error) = compress(&to) {
                    warn!(file = %to.display(), %error, "cannot compress an old flow log");
                }
            };
            thread::Builder::new().name("flow-log-zstd".to_owned()).spawn(compress)?;
        }
        let mut turned = self.all_turned()?;
        turned.sort_unstable();
        let oldest = turned.len().saturating_sub(self.bounds.files);
        for path in turned.iter().take(oldest) {
            // It costs room, and no record.
            if let Err(error) = fs::remove_file(path) {
                warn!(file = %path.display(), %error, "cannot remove an old flow log");
            }
        }
        Ok(())
    }

    /// `FILE.20261121T012701.123456Z`, the time of its newest line.
    fn turned(&self, now: SystemTime, again: u32) -> PathBuf {
        let time = humantime::format_rfc3339_micros(now).to_string().replace(['-', ':'], "");
        let again = if again == 0 { String::new() } else { format!("-{again}") };
        let mut name = OsString::from(&self.path);
        name.push(format!(".{time}{again}"));
        PathBuf::from(name)
    }

    fn all_turned(&self) -> io::Result<Vec<PathBuf>> {
        let own = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new(".")))?;
        let paths = entries.map(|entry| entry.map(|it| it.path()));
        let is_own = |path: &PathBuf| {
            let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
            name.strip_prefix(&own).is_some_and(is_time)
        };
        paths.filter(|path| path.as_ref().map_or(true, is_own)).collect()
    }
}

/// What a compressed file's name ends in, and while it is being written.
const COMPRESSED: &str = ".zst";
const UNFINISHED: &str = ".part";

/// Puts a compressed file in the place of another.
fn compress(path: &Path) -> io::Result<()> {
    let named = |ending: &str| {
        let mut name = OsString::from(path);
        name.push(ending);
        PathBuf::from(name)
    };
    let unfinished = named(&format!("{COMPRESSED}{UNFINISHED}"));
    let written = (|| {
        let mut from = File::open(path)?;
        let mut options = OpenOptions::new();
        let to = options.write(true).create(true).truncate(true).mode(0o640).open(&unfinished)?;
        let mut encoder = zstd::Encoder::new(to, 0)?;
        encoder.include_checksum(true)?;
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::rename(&unfinished, named(COMPRESSED))
    })();
    match written {
        Ok(()) => fs::remove_file(path),
        Err(error) => {
            // It may not have come as far as that.
            let _ = fs::remove_file(&unfinished);
            Err(error)
        }
    }
}

/// Whether a text is what [`Book::turned`] makes of a time, compressed or not: nobody else's file is to be
/// removed.
fn is_time(text: &str) -> bool {
    const FORM: &str = "00000000T000000.000000Z";
    let text = text.strip_suffix(UNFINISHED).unwrap_or(text);
    let text = text.strip_suffix(COMPRESSED).unwrap_or(text);
    let (time, again) = text.split_at_checked(FORM.len()).unwrap_or((text, "-"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    time.len() == FORM.len()
        && time.bytes().zip(FORM.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        })
        && (again.is_empty() || again.strip_prefix('-').is_some_and(digits))
}

impl Open {
    fn at(path: &Path, now: SystemTime) -> io::Result<Open> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o640).open(path)?;
        let found = file.metadata()?;
        let begun = if found.len() == 0 { now } else { found.created().unwrap_or(now) };
        let mut length = found.len();
        // An agent that was killed may have left the half of a line: it is not to take the next with it.
        if found.is_file() && length > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                length += 1;
            }
        }
        Ok(Open { file, length, begun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn bounds() -> Bounds {
        Bounds { size: 100, age: 10 * MINUTE, files: 2, compress: false }
    }

    fn at(minutes: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + MINUTE * minutes
    }

    /// Names and contents of the files of a folder, by name.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn a_file_is_turned_over_by_size_and_only_the_newest_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::new(folder.path().join("flows.json"), bounds());
        let line = |number: u32| format!("{number:049}\n");
        for number in 0..9 {
            book.write(line(number).as_bytes(), at(0) + Duration::from_micros(number.into()))
                .unwrap();
        }
        let found = files(folder.path());
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "flows.json",
                "flows.json.20270115T080000.000006Z",
                "flows.json.20270115T080000.000008Z",
            ]
        );
        assert_eq!(found[0].1, line(8));
        assert_eq!(found[1].1, line(4) + &line(5));
        assert_eq!(found[2].1, line(6) + &line(7));
        // What is longer than a file may be is one file.
        let long = "x".repeat(300) + "\n";
        book.write(long.as_bytes(), at(1)).unwrap();
        assert_eq!(files(folder.path())[0].1, long);
    }

    #[test]
    fn a_file_is_turned_over_by_age_and_a_clock_that_goes_back_hurts_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.json");
        let mut book = Book::new(path.clone(), bounds());
        for (minute, count) in [(0, 1), (9, 1), (10, 2), (3, 2), (19, 2), (20, 3)] {
            book.write(b"{}\n", at(minute)).unwrap();
            assert_eq!(files(folder.path()).len(), count, "minute {minute}");
        }
        // Turned over in one moment, twice: neither is written over.
        let mut book = Book::new(path, Bounds { files: 10, ..bounds() });
        for _ in 0..3 {
            book.write(&[b'x'; 100], at(21)).unwrap();
        }
        let found = files(folder.path());
        assert_eq!(found.iter().map(|(_, text)| text.len()).sum::<usize>(), 300 + 6 * 3);
        assert!(found.iter().any(|(name, _)| name.ends_with("Z-1")), "{found:?}");
    }

    #[test]
    fn nobody_elses_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let others =
            ["flows.json.2.gz", "flows.json.2026-backup", "flows.json.20270115T080000.000000Z.gz"];
        for name in others {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let mut book = Book::new(folder.path().join("flows.json"), Bounds { files: 0, ..bounds() });
        for minute in 0..3 {
            book.write(&[b'x'; 100], at(minute)).unwrap();
        }
        let found = files(folder.path());
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 1 + others.len(), "{names:?}");
        assert!(others.iter().all(|name| names.contains(name)), "{names:?}");
    }

    #[test]
    fn what_is_turned_over_is_compressed_and_goes_in_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.json");
        let mut book = Book::new(path.clone(), Bounds { compress: true, ..bounds() });
        let line = |number: u32| format!("{number:0>99}\n");
        let is_done = |count: usize| {
            let names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "flows.json")
                .collect();
            names.len() == count && names.iter().all(|name| name.ends_with("Z.zst"))
        };
        for number in 0..5 {
            book.write(line(number).as_bytes(), at(number)).unwrap();
            let count = usize::try_from(number).unwrap().min(2);
            let begun = std::time::Instant::now();
            while !is_done(count) {
                assert!(begun.elapsed() < MINUTE, "{number} is not compressed");
                thread::sleep(Duration::from_millis(5));
            }
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let file = File::open(&names[1]).unwrap();
        let text = io::read_to_string(zstd::Decoder::new(file).unwrap()).unwrap();
        assert_eq!(text, line(2), "{names:?}");
    }

    #[test]
    fn half_a_line_does_not_take_the_next_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.json");
        fs::write(&path, "{\"tor").unwrap();
        Book::new(path.clone(), bounds()).write(b"{}\n", SystemTime::now()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"tor\n{}\n");
    }

    #[test]
    fn an_earlier_agents_file_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.json");
        fs::write(&path, "a\n").unwrap();
        Book::new(path.clone(), bounds()).write(b"b\n", SystemTime::now()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_full_disk_keeps_whole_lines_and_a_missing_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/flows.json");
        let mut book = Book::new(path.clone(), bounds());
        let error = book.write(b"a\n", at(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::create_dir(folder.path().join("missing")).unwrap();
        book.write(b"b\n", at(0)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        let mut full = Book::new("/dev/full".into(), bounds());
        assert!(full.write(b"a\n", at(0)).is_err());
    }
}
