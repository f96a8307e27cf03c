//! The little world that the packets travel in.
//!
//! Outputs: [`World`]: three endpoints under one policy, an interface that nobody knows, and
//! assertions on single frames.

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_common::{
    abi::{Direction, DropKey, DropReason, Event, RULE_NONE},
    maps,
};
use policy_test::testrun::{Entry, Ring, Verdict};

use crate::{
    frames::{OWN_MAC, ip},
    reference::Subject,
};

/// `web` may be called on 80/tcp, 53/udp and by ping from `client`, and may call `db` on
/// 5432/tcp and 53/udp and ping it.
pub(crate) const POLICIES: &str = r"
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: web }
spec:
  selector: app == 'web'
  types: [Ingress, Egress]
  ingress:
    - { action: Allow, protocol: TCP, source: { selector: app == 'client' }, destination: { ports: [80] } }
    - { action: Allow, protocol: UDP, source: { selector: app == 'client' }, destination: { ports: [53] } }
    - { action: Allow, protocol: ICMP, source: { selector: app == 'client' }, icmp: { type: 8 } }
    - { action: Allow, protocol: ICMPv6, source: { selector: app == 'client' }, icmp: { type: 128 } }
    - { action: Deny, protocol: TCP, destination: { ports: [22] } }
  egress:
    - { action: Allow, protocol: TCP, destination: { selector: app == 'db', ports: [5432] } }
    - { action: Allow, protocol: UDP, destination: { selector: app == 'db', ports: [53] } }
    - { action: Allow, protocol: ICMP, destination: { selector: app == 'db' }, icmp: { type: 8 } }
    - { action: Allow, protocol: ICMPv6, destination: { selector: app == 'db' }, icmp: { type: 128 } }
    - { action: Deny, protocol: TCP, destination: { ports: [22] } }
";

/// Small tables: most of a test's time is loading.
const SIZES: Sizes = Sizes { conntrack_v4: 4096, conntrack_v6: 4096 };

/// One ring, its interfaces, and the policy above.
pub(crate) struct World {
    pub(crate) ring: Ring,
    /// 10.0.0.2, fd00::2.
    pub(crate) web: u32,
    /// 10.0.0.5, fd00::5: no policy selects it.
    pub(crate) free: u32,
    /// Not an endpoint.
    pub(crate) stranger: u32,
}

impl World {
    pub(crate) fn new() -> Result<World> {
        let mut ring = Ring::new(SIZES)?;
        ring.load(&[Hook::FromEndpoint, Hook::ToEndpoint])?;
        let web = ring.interface("web")?;
        let db = ring.interface("db")?;
        let client = ring.interface("client")?;
        let free = ring.interface("free")?;
        let stranger = ring.interface("stranger")?;
        ring.endpoint(web, "web", "web", &[ip("10.0.0.2"), ip("fd00::2")]);
        ring.endpoint(db, "db", "db", &[ip("10.0.0.3"), ip("fd00::3")]);
        ring.endpoint(client, "client", "client", &[ip("10.0.0.4"), ip("fd00::4")]);
        ring.endpoint(free, "free", "free", &[ip("10.0.0.5"), ip("fd00::5")]);
        for name in ["web", "free"] {
            ring.change(name, |spec| spec.mac = Some(OWN_MAC))?;
        }
        ring.policies(POLICIES)?;
        ring.sync()?;
        Ok(World { ring, web, free, stranger })
    }

    /// `web` sends a frame.
    pub(crate) fn sends(&self, frame: &[u8]) -> Result<Verdict> {
        self.ring.judge(Hook::FromEndpoint, self.web, frame)
    }

    /// `web` gets a frame.
    pub(crate) fn gets(&self, frame: &[u8]) -> Result<Verdict> {
        self.ring.judge(Hook::ToEndpoint, self.web, frame)
    }

    /// Where the frames of an endpoint meet its fence.
    pub(crate) fn entry(&self, subject: Subject, direction: Direction) -> Entry {
        let ifindex = match subject {
            Subject::Web => self.web,
            Subject::Free => self.free,
        };
        let hook = match direction {
            Direction::Egress => Hook::FromEndpoint,
            Direction::Ingress => Hook::ToEndpoint,
        };
        (hook, ifindex).into()
    }

    /// An endpoint sends or gets a frame. What was counted is forgotten at once, so that looking at the
    /// counters costs the same for the last of many frames as for the first.
    pub(crate) fn shows(
        &mut self,
        subject: Subject,
        direction: Direction,
        frame: &[u8],
    ) -> Result<Verdict> {
        let verdict = self.ring.judge_at(self.entry(subject, direction), frame)?;
        if let Verdict::Drop(key) = &verdict {
            self.ring.forget_drop(key)?;
        }
        Ok(verdict)
    }

    pub(crate) fn passes_out(&self, what: &str, frame: &[u8]) -> Result<()> {
        passes(what, &self.sends(frame)?)
    }

    pub(crate) fn passes_in(&self, what: &str, frame: &[u8]) -> Result<()> {
        passes(what, &self.gets(frame)?)
    }

    pub(crate) fn drops_out(&self, what: &str, frame: &[u8], why: DropReason) -> Result<DropKey> {
        drops(what, &self.sends(frame)?, why, Direction::Egress)
    }

    pub(crate) fn drops_in(&self, what: &str, frame: &[u8], why: DropReason) -> Result<DropKey> {
        drops(what, &self.gets(frame)?, why, Direction::Ingress)
    }

    /// The name of the rule that a drop names.
    pub(crate) fn rule_of(&self, key: &DropKey) -> Result<String> {
        let rule = self.ring.rule(key.rule).context("the rule has a name")?;
        Ok(format!("{} {} {}", rule.policy, rule.rule, rule.action))
    }

    /// The one event since the last look.
    pub(crate) fn event(&mut self) -> Result<Event> {
        let events = self.ring.events()?;
        ensure!(events.len() == 1, "not one event: {events:?}");
        Ok(events[0])
    }
}

pub(crate) fn passes(what: &str, verdict: &Verdict) -> Result<()> {
    ensure!(*verdict == Verdict::Pass, "{what} was dropped: {verdict:?}");
    Ok(())
}

pub(crate) fn drops(
    what: &str,
    verdict: &Verdict,
    why: DropReason,
    direction: Direction,
) -> Result<DropKey> {
    let Verdict::Drop(key) = verdict else { anyhow::bail!("{what} passed") };
    let reason = DropReason::from_u8(key.reason).context("a known reason")?;
    ensure!(reason == why, "{what} was dropped for {}, not {}", reason.name(), why.name());
    ensure!(key.direction == direction as u8, "{what}: the wrong direction in {key:?}");
    // A rule decides on policy drops and block lists, and on nothing else.
    let ruled = matches!(why, DropReason::Policy | DropReason::Untracked | DropReason::RateLimited);
    ensure!((key.rule != RULE_NONE) == ruled, "{what}: rule {}", key.rule);
    ensure!(key.rule < maps::MAX_RULES, "{what}: rule {}", key.rule);
    Ok(*key)
}
