//! A file of the history: blocks of records, each behind a summary of it.
//!
//! To zstd such a file is a row of frames of JSON lines, with skippable frames (RFC 8878, 3.1.2) between them:
//! `zstdcat` prints the records, and `policyctl observe --input` reads them. A skippable frame holds what the
//! next frame does: numbers in little-endian order.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `PLSD` |
//! | 1 | version of the summary ([`summary::VERSION`]) |
//! | 3 | zero |
//! | 8, 8 | time of the oldest and of the newest record, µs since 1970 |
//! | 4 | records |
//! | 4 | bytes of the next frame |
//! | 8 | XXH64 (seed 0) of the summary |
//! | 8 | XXH64 of all this before it, the magic number and the length of the skippable frame among it |
//! | rest | summary |
//!
//! Frames have checksums of their own (RFC 8878, 3.1.1), so what a disk has changed is noticed: behind a wrong head
//! nothing of the file is read, a wrong summary is not believed, a wrong frame is told of.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use policy_api::{flow::FlowRecord, terminal::clean_json};
use policy_core::observe::summary::{self, Summary, Words};
use tracing::warn;
use twox_hash::XxHash64;

/// First of the magic numbers of skippable frames.
const SKIPPABLE: u32 = 0x184D_2A50;
const OURS: &[u8; 4] = b"PLSD";
/// Magic number, length.
const FRAME_HEAD: usize = 8;
/// Our part of a skippable frame, up to the summary.
const HEAD: usize = 48;
/// What the checksum at its end is about: the frame's head, and all of ours before it.
const CHECKED: usize = FRAME_HEAD + 40;
/// No block is longer, compressed or not; what says so is damaged.
const LONGEST: u32 = 64 * 1024 * 1024;
/// The level at which writing costs least; the lines are alike.
const LEVEL: i32 = 1;

/// A block, as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Where its skippable frame begins.
    offset: u64,
    /// Bytes of the summary.
    summary: u32,
    /// Bytes of its frame.
    frame: u32,
    /// Records.
    pub(super) count: u32,
    /// Time of the oldest record, µs since 1970.
    pub(super) oldest_us: i64,
    /// Time of the newest record, likewise.
    pub(super) newest_us: i64,
    version: u8,
    /// Checksum of the summary.
    checksum: u64,
}

impl Block {
    /// Bytes that it takes.
    fn length(&self) -> u64 {
        (FRAME_HEAD + HEAD) as u64 + u64::from(self.summary) + u64::from(self.frame)
    }

    fn frame_offset(&self) -> u64 {
        self.offset + self.length() - u64::from(self.frame)
    }

    /// Whether it may hold what is wanted.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn may_hold(
        &self,
        file: &File,
        wanted: impl Fn(Summary<'_>) -> bool,
    ) -> io::Result<bool> {
        if self.version != summary::VERSION {
            return Ok(wanted(Summary(&[])));
        }
        let mut bytes = vec![0; self.summary as usize];
        file.read_exact_at(&mut bytes, self.offset + (FRAME_HEAD + HEAD) as u64)?;
        let is_whole = checksum(&bytes) == self.checksum;
        Ok(wanted(Summary(if is_whole { &bytes } else { &[] })))
    }

    /// Its lines.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or what is there is no longer what was written.
    pub(super) fn lines(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; self.frame as usize];
        file.read_exact_at(&mut frame, self.frame_offset())?;
        let mut lines = Vec::new();
        let decoder = zstd::Decoder::with_buffer(&*frame)?;
        decoder.take(u64::from(LONGEST) + 1).read_to_end(&mut lines)?;
        if lines.len() > LONGEST as usize {
            return Err(io::Error::other("a block is longer than any that is written"));
        }
        Ok(lines)
    }
}

/// A file and its blocks.
#[derive(Clone, Debug)]
pub struct Segment {
    pub(super) path: PathBuf,
    pub(super) blocks: Vec<Block>,
    /// Bytes of whole blocks.
    pub(super) length: u64,
    /// Bytes behind them, found when it was read: half a block, or blocks behind one that a disk has changed.
    /// They are left as they are, so nothing is added to such a file.
    pub(super) rest: u64,
}

impl Segment {
    /// One without blocks, whose file is made when there are some.
    pub(super) fn new(path: PathBuf) -> Segment {
        Segment { path, blocks: Vec::new(), length: 0, rest: 0 }
    }

    /// Reads which blocks a file has. What comes behind the last whole one is no part of it: it was being written
    /// when the agent or its host died, or the disk has changed it.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<Segment> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let mut segment = Segment::new(path.to_owned());
        while let Some(block) = block_at(&file, segment.length, end)? {
            segment.length += block.length();
            segment.blocks.push(block);
        }
        segment.rest = end - segment.length;
        if segment.rest > 0 {
            let bytes = segment.rest;
            warn!(file = %path.display(), bytes, "a part of the history is not whole, and left out");
        }
        Ok(segment)
    }

    /// Adds a block of records, which are not none.
    ///
    /// # Errors
    ///
    /// The file cannot be written. It has then what it had before.
    pub(super) fn write<'a>(
        &mut self,
        records: impl Iterator<Item = (i64, &'a FlowRecord)>,
    ) -> io::Result<()> {
        let mut words = Words::default();
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.include_checksum(true)?;
        let (mut count, mut oldest_us, mut newest_us) = (0_u32, i64::MAX, i64::MIN);
        for (time, record) in records {
            words.add(record);
            // Names and labels are their authors', and the file may be looked at in a terminal.
            let line = clean_json(&serde_json::to_string(record)?).into_owned();
            encoder.write_all(line.as_bytes())?;
            encoder.write_all(b"\n")?;
            (oldest_us, newest_us) = (oldest_us.min(time), newest_us.max(time));
            count += 1;
        }
        let frame = encoder.finish()?;
        let summary = words.sum_up();
        let too_long = |_| io::Error::other("a block of the history is too long");
        let block = Block {
            offset: self.length,
            summary: u32::try_from(summary.len()).map_err(too_long)?,
            frame: u32::try_from(frame.len()).map_err(too_long)?,
            count,
            oldest_us,
            newest_us,
            version: summary::VERSION,
            checksum: checksum(&summary),
        };
        let mut bytes = Vec::with_capacity(FRAME_HEAD + HEAD + summary.len() + frame.len());
        let head = u32::try_from(HEAD + summary.len()).map_err(too_long)?;
        bytes.extend(SKIPPABLE.to_le_bytes());
        bytes.extend(head.to_le_bytes());
        bytes.extend(OURS);
        bytes.extend([block.version, 0, 0, 0]);
        bytes.extend(oldest_us.to_le_bytes());
        bytes.extend(newest_us.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(block.frame.to_le_bytes());
        bytes.extend(block.checksum.to_le_bytes());
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes.extend(summary);
        bytes.extend(frame);
        self.append(&bytes)?;
        self.length += block.length();
        self.blocks.push(block);
        Ok(())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        // Who talks to whom is nobody's business but root's.
        options.create(true).write(true).truncate(false).mode(0o600);
        let file = options.open(&self.path)?;
        // Half a block of an attempt that failed, if there is one, gives way.
        file.set_len(self.length)?;
        let written = file.write_all_at(bytes, self.length).and_then(|()| file.sync_data());
        if written.is_err() {
            file.set_len(self.length)?;
        }
        written
    }

    /// Bytes that it takes on disk.
    pub(super) fn size(&self) -> u64 {
        self.length + self.rest
    }

    /// Time of the newest record, µs since 1970.
    pub(super) fn newest_us(&self) -> Option<i64> {
        self.blocks.iter().map(|block| block.newest_us).max()
    }

    pub(super) fn oldest_us(&self) -> Option<i64> {
        self.blocks.iter().map(|block| block.oldest_us).min()
    }

    pub(super) fn count(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.count)).sum()
    }
}

/// The block at an offset; `None` if there is no whole one.
fn block_at(file: &File, offset: u64, end: u64) -> io::Result<Option<Block>> {
    let mut bytes = [0; FRAME_HEAD + HEAD];
    if offset + bytes.len() as u64 > end {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset)?;
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(word)
    };
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let head = word(4);
    let is_ours = word(0) == SKIPPABLE && bytes[8..12] == *OURS && head as usize >= HEAD;
    let frame = word(36);
    let is_whole = checksum(&bytes[..CHECKED]) == long(CHECKED);
    if !is_ours || !is_whole || head > LONGEST || frame > LONGEST {
        return Ok(None);
    }
    let block = Block {
        offset,
        summary: head.saturating_sub(u32::try_from(HEAD).unwrap_or(u32::MAX)),
        frame,
        count: word(32),
        oldest_us: long(16).cast_signed(),
        newest_us: long(24).cast_signed(),
        version: bytes[12],
        checksum: long(40),
    };
    Ok((offset + block.length() <= end).then_some(block))
}

fn checksum(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}
