//! Frames that nobody has thought of: those of the table, bent. Programs and reference must agree on
//! each, on the reason and on what is counted.
//!
//! Inputs: `PALISADE_SEED` (decimal; by default always the same), to see a run again.

use std::{
    collections::BTreeMap,
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use policy_common::abi::Direction;

use crate::{
    frames::{ETHERNET, IPV6, from_mac, padding, tagged},
    reference::{Reference, Subject},
    shapes::{agree, guard, rows},
    world::World,
};

const FRAMES: usize = 10_000;
/// After so many, everybody forgets what went before.
const EPISODE: usize = 40;
/// Seed of the run that is the same each time.
const SEED: u64 = 4;

#[test]
fn programs_and_reference_agree_on_generated_frames() -> Result<()> {
    let seed = match env::var("PALISADE_SEED") {
        Ok(text) if text == "now" => {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?
        }
        Ok(text) => text.parse().context("PALISADE_SEED")?,
        Err(_) => SEED,
    };
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let shapes: Vec<Vec<u8>> = rows().into_iter().map(|row| row.frame).collect();
    let mut world = World::new()?;
    let mut reference = Reference::default();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..FRAMES {
        if number % EPISODE == 0 {
            let (v4, v6) = world.ring.flows()?;
            ensure!(v4.len() + v6.len() == reference.flows(), "before {number}: {v4:?} {v6:?}");
            world.ring.forget_all()?;
            reference = Reference::default();
        }
        let frame = bent(&mut rng, &shapes);
        let subject = if rng.bool() { Subject::Web } else { Subject::Free };
        let direction = if rng.u8(0..3) != 0 { Direction::Egress } else { Direction::Ingress };
        let said = reference.judge(subject, direction, &frame);
        let verdict = world.shows(subject, direction, &frame)?;
        let told =
            || format!("frame {number} of seed {seed}, {subject:?} {direction:?}: {frame:02x?}");
        agree(&verdict, &said).with_context(told)?;
        guard(&world, &frame).with_context(told)?;
        *seen
            .entry(said.map_or_else(|refusal| refusal.reason.name(), |()| "passed"))
            .or_default() += 1;
    }
    println!("{FRAMES} frames: {seen:?}");
    // A generator that makes but one kind of frame shows nothing.
    let rare = |name: &&str| seen.get(name).copied().unwrap_or(0) < 20;
    let missing: Vec<_> = [
        "passed",
        "policy",
        "spoofed-source",
        "spoofed-mac",
        "spoofed-arp",
        "spoofed-neighbour",
        "rogue-router",
        "malformed",
        "unsupported-ethertype",
        "header-chain",
        "fragment",
        "no-connection",
        "unrelated-icmp",
    ]
    .into_iter()
    .filter(rare)
    .collect();
    ensure!(missing.is_empty(), "hardly any of {missing:?} among {seen:?}");
    Ok(())
}

/// A shape of the table with up to four things changed, and its lengths made right again more often
/// than not: else little would come further than the first header.
fn bent(rng: &mut Rng, shapes: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = rng.choice(shapes).cloned().unwrap_or_default();
    for _ in 0..rng.usize(0..=4) {
        change(rng, &mut frame, shapes);
    }
    // Shorter ones the kernel does not take; longer ones are no frames.
    frame.resize(frame.len().clamp(ETHERNET + 40, 1500), 0);
    if rng.u8(0..4) != 0 {
        make_lengths_right(&mut frame);
    }
    frame
}

fn change(rng: &mut Rng, frame: &mut Vec<u8>, shapes: &[Vec<u8>]) {
    let at = rng.usize(..frame.len().clamp(1, 100));
    match rng.u8(0..10) {
        0 | 1 => set(frame, at, &[rng.u8(..)]),
        2 => set(
            frame,
            at,
            &[*rng.choice(&[0, 1, 2, 4, 6, 17, 44, 58, 0x7f, 0x80, 0xff]).unwrap_or(&0)],
        ),
        3 => frame.truncate(rng.usize(ETHERNET..=frame.len().max(ETHERNET))),
        4 => frame.extend((0..rng.usize(1..40)).map(|_| rng.u8(..))),
        5 => *frame = tagged(frame, &[*rng.choice(&[0x8100, 0x88a8]).unwrap_or(&0x8100)]),
        6 => *frame = from_mac(frame, [2, 0, 0, 0, 0xaa, rng.u8(1..4)]),
        7 => {
            let other = rng.choice(shapes).cloned().unwrap_or_default();
            frame.truncate(at);
            frame.extend(other.get(at..).unwrap_or_default());
        }
        // An end of the packet becomes somebody whom policy knows.
        8 => {
            let low = rng.u8(1..6);
            let second = rng.bool();
            if is_v6(frame) {
                set(frame, ETHERNET + if second { 39 } else { 23 }, &[low]);
            } else {
                set(frame, ETHERNET + if second { 19 } else { 15 }, &[low]);
            }
        }
        _ if is_v6(frame) && frame.len() >= ETHERNET + 40 => {
            let kind = *rng.choice(&[0, 43, 44, 51, 60]).unwrap_or(&60);
            let body = if kind == 44 { vec![0, 0, rng.u8(0..3), 0, 0, 0, 9] } else { padding(0) };
            let header = [&[frame[ETHERNET + 6]][..], &body].concat();
            frame[ETHERNET + 6] = kind;
            frame.splice(ETHERNET + 40..ETHERNET + 40, header);
        }
        // More fragments, and a place.
        _ => set(frame, ETHERNET + 6, &[*rng.choice(&[0x20, 0]).unwrap_or(&0), rng.u8(0..4)]),
    }
}

fn set(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(there) = frame.get_mut(at..at + bytes.len()) {
        there.copy_from_slice(bytes);
    }
}

fn is_v6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&IPV6.to_be_bytes()[..])
}

/// The lengths of an untagged packet's IP header and of a UDP header right behind it.
fn make_lengths_right(frame: &mut [u8]) {
    let length = |from: usize| u16::try_from(frame.len() - from).unwrap_or(u16::MAX).to_be_bytes();
    let (from, at, transport, protocol) = if is_v6(frame) {
        (ETHERNET + 40, ETHERNET + 4, ETHERNET + 40, frame[ETHERNET + 6])
    } else {
        (ETHERNET, ETHERNET + 2, ETHERNET + 20, frame[ETHERNET + 9])
    };
    let (ip, udp) = (length(from), length(transport));
    set(frame, at, &ip);
    if protocol == 17 {
        set(frame, transport + 4, &udp);
    }
}
