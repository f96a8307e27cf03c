//! Which flow records somebody wants to see.
//!
//! In: a [`FlowFilter`] as it was typed. Out: a [`Filter`] that says of each record whether it is wanted, or
//! which part of it means nothing. The agent and `policyctl observe --input` use the same.

pub mod summary;

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, time::SystemTime};

use ipnet::IpNet;
use policy_api::{
    flow::{self, Condition, Field, FlowEnd, FlowFilter, FlowRecord, Side},
    messages::{RuleName, Verdict},
    resource::did_you_mean,
};
use policy_common::abi::DropReason;

use crate::{
    labels::Labels,
    names,
    selector::{Selector, SelectorError},
};

/// A part of a filter that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A condition.
    #[error("{value:?} is not {what}{hint}")]
    Value {
        /// Of which field.
        field: Field,
        /// As it was typed.
        value: String,
        /// What it should be.
        what: &'static str,
        /// ` (did you mean ...?)`, or nothing.
        hint: String,
    },
    /// A selector of labels.
    #[error("{value:?} is not a selector: {error}")]
    Selector {
        /// As it was typed.
        value: String,
        /// Why.
        error: SelectorError,
    },
    /// A side of what has none.
    #[error("a flow has one {}, and none at each end", .0.name())]
    Side(Field),
    /// A bound of the time span.
    #[error("{0:?} is not a time: write it as 2026-11-21T01:27:01Z")]
    Time(String),
    /// A time span without an instant.
    #[error("the time span ends before it begins")]
    Span,
}

/// Reads a condition as a configuration has it: `from-namespace=shop`, `not reason=policy`.
///
/// # Errors
///
/// What is none, with the form that is expected. Of its value nothing is said: that is [`Filter::new`]'s.
pub fn condition(text: &str) -> Result<Condition, String> {
    let (not, rest) = match text.strip_prefix("not ") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    let (key, value) = rest.split_once('=').ok_or_else(|| {
        format!("`{text}` is no filter: write FIELD=VALUE, such as from-namespace=shop")
    })?;
    let (side, name) = match (key.strip_prefix("from-"), key.strip_prefix("to-")) {
        (Some(name), _) => (Side::Source, name),
        (None, Some(name)) => (Side::Destination, name),
        (None, None) => (Side::Either, key),
    };
    let field = Field::ALL.into_iter().find(|field| field.name() == name).ok_or_else(|| {
        let known = Field::ALL.map(Field::name);
        let hint = did_you_mean(name, known).map_or_else(
            || format!("one of {}", known.join(", ")),
            |it| format!("did you mean `{it}`?"),
        );
        format!("`{key}` is no field of a filter ({hint})")
    })?;
    Ok(Condition { field, side, not, value: value.to_owned() })
}

/// Conditions, understood.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    groups: BTreeMap<(Field, Side, bool), Vec<Test>>,
}

/// What is the same in all that is wanted: an address and a port of one end, and a protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// Address.
    pub address: Option<IpAddr>,
    /// Port, not 0.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
}

/// One condition.
#[derive(Clone, Debug)]
enum Test {
    Named {
        namespace: Option<String>,
        name: String,
    },
    Namespace(String),
    Label(Selector),
    Ip(IpNet),
    Port(RangeInclusive<u16>),
    Verdict(Verdict),
    /// A word that the record has as well.
    Word(String),
}

impl Filter {
    /// Understands a filter.
    ///
    /// # Errors
    ///
    /// The first part that means nothing.
    pub fn new(wanted: &FlowFilter) -> Result<Filter, FilterError> {
        let time = |text: &Option<String>| match text {
            Some(text) => match humantime::parse_rfc3339(text) {
                Ok(time) => Ok(Some(time)),
                Err(_) => Err(FilterError::Time(text.clone())),
            },
            None => Ok(None),
        };
        let (since, until) = (time(&wanted.since)?, time(&wanted.until)?);
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            return Err(FilterError::Span);
        }
        let mut groups: BTreeMap<_, Vec<Test>> = BTreeMap::new();
        for condition in &wanted.conditions {
            let key = (condition.field, condition.side, condition.not);
            groups.entry(key).or_default().push(test(condition)?);
        }
        Ok(Filter { since, until, groups })
    }

    /// What every record that is wanted has, as far as that is one thing.
    pub fn only(&self) -> Only {
        let mut only = Only::default();
        for ((field, _, not), tests) in &self.groups {
            match (field, not, tests.as_slice()) {
                (Field::Ip, false, [Test::Ip(net)]) if net.prefix_len() == net.max_prefix_len() => {
                    only.address = Some(net.addr());
                }
                (Field::Port, false, [Test::Port(ports)]) if ports.start() == ports.end() => {
                    only.port = Some(*ports.start());
                }
                (Field::Protocol, false, [Test::Word(word)]) => {
                    let named = |number: &u8| names::protocol(*number).eq_ignore_ascii_case(word);
                    only.protocol = (0..=u8::MAX).find(named);
                }
                _ => {}
            }
        }
        only
    }

    /// Its time span: from when on, and before when.
    pub fn span(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        (self.since, self.until)
    }

    /// Whether a record is wanted.
    pub fn wants(&self, record: &FlowRecord) -> bool {
        self.is_in_time(record)
            && self.groups.iter().all(|(&(field, side, not), tests)| {
                tests.iter().any(|test| test.holds(field, side, record)) != not
            })
    }

    /// Whether a record is of the time span. One whose time cannot be read is of none.
    fn is_in_time(&self, record: &FlowRecord) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        humantime::parse_rfc3339(&record.time).is_ok_and(|time| {
            self.since.is_none_or(|since| time >= since)
                && self.until.is_none_or(|until| time < until)
        })
    }
}

fn test(condition: &Condition) -> Result<Test, FilterError> {
    let Condition { field, side, value, .. } = condition;
    let wrong = |what| FilterError::Value {
        field: *field,
        value: value.clone(),
        what,
        hint: String::new(),
    };
    if *side != Side::Either && !field.has_sides() {
        return Err(FilterError::Side(*field));
    }
    Ok(match field {
        Field::Name | Field::Policy => {
            named(value).ok_or_else(|| wrong("a name: write NAME or NAMESPACE/NAME"))?
        }
        Field::Namespace => Test::Namespace(value.clone()),
        Field::Label => Test::Label(
            Selector::parse(value)
                .map_err(|error| FilterError::Selector { value: value.clone(), error })?,
        ),
        Field::Ip => {
            let net = value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
            Test::Ip(net.map_err(|_| wrong("an IP address or a network"))?)
        }
        Field::Port => Test::Port(
            ports(value)
                .ok_or_else(|| wrong("a port or a range of ports: write 443 or 8000-8100"))?,
        ),
        Field::Verdict => Test::Verdict(match value.as_str() {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => {
                return Err(unknown(
                    condition,
                    "a verdict: write allow or deny",
                    &["allow", "deny"],
                ));
            }
        }),
        Field::Reason => {
            let known: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
            word(condition, "a reason for a drop", &known)?
        }
        Field::Protocol => {
            let known: Vec<String> =
                names::PROTOCOLS.iter().map(|(name, _)| name.to_lowercase()).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let lower = value.to_lowercase();
            match lower.parse::<u8>() {
                Ok(number) => Test::Word(names::protocol(number).to_lowercase()),
                Err(_) if known.contains(&lower.as_str()) => Test::Word(lower),
                Err(_) => return Err(unknown(condition, "a protocol, by name or number", &known)),
            }
        }
        Field::Event => {
            word(condition, "an event: write drop, log, staged, open or close", &flow::EVENTS)?
        }
        Field::Direction => {
            word(condition, "a direction: write ingress or egress", &["ingress", "egress"])?
        }
    })
}

fn word(condition: &Condition, what: &'static str, known: &[&str]) -> Result<Test, FilterError> {
    if known.contains(&condition.value.as_str()) {
        return Ok(Test::Word(condition.value.clone()));
    }
    Err(unknown(condition, what, known))
}

fn unknown(condition: &Condition, what: &'static str, known: &[&str]) -> FilterError {
    let value = condition.value.clone();
    let hint = did_you_mean(&value, known.iter().copied())
        .map_or_else(String::new, |known| format!(" (did you mean `{known}`?)"));
    FilterError::Value { field: condition.field, value, what, hint }
}

/// `NAME` or `NAMESPACE/NAME`.
fn named(text: &str) -> Option<Test> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    let named = !name.is_empty() && !name.contains('/') && namespace.as_deref() != Some("");
    named.then(|| Test::Named { namespace, name: name.to_owned() })
}

/// `PORT` or `FIRST-LAST`.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

impl Test {
    fn holds(&self, field: Field, side: Side, record: &FlowRecord) -> bool {
        match field {
            Field::Verdict => matches!(self, Test::Verdict(verdict) if *verdict == record.verdict),
            Field::Reason => self.is_word(&record.reason),
            Field::Protocol => self.is_word(&record.protocol),
            Field::Event => self.is_word(&record.event),
            Field::Direction => self.is_word(&record.direction),
            Field::Policy => {
                let staged = record.staged.iter().map(|staged| &staged.rule);
                let mut rules = record.rule.iter().chain(&record.logged).chain(staged);
                rules.any(|rule| self.is_of(rule))
            }
            _ => match side {
                Side::Either => self.holds_at(&record.source) || self.holds_at(&record.destination),
                Side::Source => self.holds_at(&record.source),
                Side::Destination => self.holds_at(&record.destination),
            },
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self, Test::Word(wanted) if wanted == word)
    }

    fn is_of(&self, rule: &RuleName) -> bool {
        match self {
            Test::Named { namespace, name } => {
                rule.policy == *name && namespace.as_ref().is_none_or(|it| *it == rule.namespace)
            }
            _ => false,
        }
    }

    fn holds_at(&self, end: &FlowEnd) -> bool {
        match self {
            Test::Named { namespace, name } => {
                end.name == *name && namespace.as_ref().is_none_or(|it| *it == end.namespace)
            }
            Test::Namespace(namespace) => end.namespace == *namespace,
            Test::Label(selector) => {
                let labels: Labels =
                    end.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                // Who has no labels is no workload: `!has(x)` is not about the world.
                !end.labels.is_empty() && selector.matches(&labels)
            }
            Test::Ip(net) => end.ip.is_some_and(|ip| net.contains(&ip)),
            Test::Port(ports) => end.port != 0 && ports.contains(&end.port),
            Test::Verdict(_) | Test::Word(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use policy_api::messages::StagedVerdict;

    use super::*;

    fn end(namespace: &str, name: &str, ip: &str, port: u16, labels: &[(&str, &str)]) -> FlowEnd {
        FlowEnd {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ip: ip.parse().ok(),
            port,
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn rule(namespace: &str, policy: &str) -> RuleName {
        RuleName {
            namespace: namespace.to_owned(),
            policy: policy.to_owned(),
            ..RuleName::default()
        }
    }

    /// `shop/web` was kept from `shop/db`, and somebody in the world from `shop/web`; a Log rule saw a
    /// packet that passes.
    pub(super) fn records() -> Vec<FlowRecord> {
        let web = |port| end("shop", "web", "10.0.0.2", port, &[("app", "web")]);
        let record = |source: FlowEnd, destination: FlowEnd| FlowRecord {
            time: "2026-11-21T01:00:00.000000Z".to_owned(),
            event: "drop".to_owned(),
            verdict: Verdict::Deny,
            reason: "policy".to_owned(),
            direction: "ingress".to_owned(),
            source,
            destination,
            protocol: "tcp".to_owned(),
            icmp_type: None,
            icmp_code: None,
            tcp_flags: "SYN".to_owned(),
            rule: Some(rule("shop", "db")),
            logged: Vec::new(),
            staged: None,
            bytes: 60,
            traffic: None,
        };
        let mut world = record(end("", "world", "203.0.113.9", 0, &[]), web(0));
        world.time = "2026-11-21T02:00:00.500000Z".to_owned();
        world.reason = "no-connection".to_owned();
        world.protocol = "47".to_owned();
        world.rule = None;
        let mut logged =
            record(web(40_000), end("blog", "web", "fd00::7", 8080, &[("app", "blog")]));
        logged.time = "2026-11-21T03:00:00Z".to_owned();
        logged.event = "log".to_owned();
        logged.verdict = Verdict::Allow;
        logged.reason = String::new();
        logged.direction = "egress".to_owned();
        logged.rule = Some(rule("", "allow"));
        logged.logged = vec![rule("", "audit")];
        logged.staged = Some(StagedVerdict { verdict: Verdict::Deny, rule: rule("", "soon") });
        vec![
            record(web(41_000), end("shop", "db", "10.0.0.3", 5432, &[("app", "db")])),
            world,
            logged,
        ]
    }

    /// Field, side, `not`, value.
    type Typed<'a> = (Field, Side, bool, &'a str);

    fn filter(conditions: &[Typed<'_>]) -> Result<Filter, FilterError> {
        let conditions = conditions.iter().map(|&(field, side, not, value)| Condition {
            field,
            side,
            not,
            value: value.to_owned(),
        });
        Filter::new(&FlowFilter { conditions: conditions.collect(), ..FlowFilter::default() })
    }

    /// Places of the records that are wanted.
    fn wanted(filter: &Filter) -> Vec<usize> {
        let records = records().into_iter().enumerate();
        records.filter(|(_, record)| filter.wants(record)).map(|(place, _)| place).collect()
    }

    #[test]
    fn each_field_is_looked_at() {
        use Field::*;
        use Side::*;
        let cases: &[(&[Typed<'_>], &[usize])] = &[
            (&[], &[0, 1, 2]),
            (&[(Name, Either, false, "db")], &[0]),
            (&[(Name, Either, false, "web")], &[0, 1, 2]),
            (&[(Name, Source, false, "web")], &[0, 2]),
            (&[(Name, Destination, false, "web")], &[1, 2]),
            (&[(Name, Destination, false, "shop/web")], &[1]),
            (&[(Name, Either, true, "blog/web")], &[0, 1]),
            (&[(Name, Source, true, "web")], &[1]),
            (&[(Namespace, Either, false, "blog")], &[2]),
            (&[(Namespace, Source, false, "")], &[1]),
            (&[(Label, Either, false, "app == 'db'")], &[0]),
            (&[(Label, Source, false, "app == 'web'")], &[0, 2]),
            (&[(Label, Destination, false, "app in {'web', 'blog'}")], &[1, 2]),
            (&[(Label, Source, false, "!has(role)")], &[0, 2]),
            (&[(Ip, Either, false, "10.0.0.3")], &[0]),
            (&[(Ip, Source, false, "10.0.0.0/8")], &[0, 2]),
            (&[(Ip, Either, false, "fd00::/8")], &[2]),
            (&[(Port, Either, false, "5432")], &[0]),
            (&[(Port, Destination, false, "5000-8080")], &[0, 2]),
            (&[(Port, Source, false, "0-65535")], &[0, 2]),
            (&[(Verdict, Either, false, "allow")], &[2]),
            (&[(Verdict, Either, true, "allow")], &[0, 1]),
            (&[(Reason, Either, false, "no-connection")], &[1]),
            (&[(Policy, Either, false, "db")], &[0]),
            (&[(Policy, Either, false, "shop/db"), (Policy, Either, false, "audit")], &[0, 2]),
            (&[(Policy, Either, false, "soon")], &[2]),
            (&[(Policy, Either, false, "blog/db")], &[]),
            (&[(Protocol, Either, false, "TCP")], &[0, 2]),
            (&[(Protocol, Either, false, "6")], &[0, 2]),
            (&[(Protocol, Either, false, "47")], &[1]),
            (&[(Event, Either, false, "log")], &[2]),
            (&[(Direction, Either, false, "egress")], &[2]),
            // Of one group one is enough; of several, each.
            (&[(Name, Either, false, "db"), (Name, Either, false, "world")], &[0, 1]),
            (&[(Name, Either, false, "db"), (Verdict, Either, false, "allow")], &[]),
            (&[(Name, Source, false, "web"), (Name, Destination, false, "db")], &[0]),
            (&[(Name, Either, true, "db"), (Name, Either, true, "world")], &[2]),
            (&[(Name, Either, false, "web"), (Name, Either, true, "db")], &[1, 2]),
        ];
        for (conditions, expected) in cases {
            assert_eq!(wanted(&filter(conditions).unwrap()), *expected, "{conditions:?}");
        }
    }

    #[test]
    fn the_time_span_ends_before_its_end() {
        let span = |since: Option<&str>, until: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let span =
                FlowFilter { since: text(since), until: text(until), ..FlowFilter::default() };
            Filter::new(&span)
        };
        let (one, three) = ("2026-11-21T01:00:00Z", "2026-11-21T03:00:00Z");
        assert_eq!(wanted(&span(Some("2026-11-21T02:00:00.5Z"), None).unwrap()), [1, 2]);
        assert_eq!(wanted(&span(None, Some(three)).unwrap()), [0, 1]);
        assert_eq!(wanted(&span(Some(one), Some(three)).unwrap()), [0, 1]);
        assert_eq!(span(Some(three), Some(one)).unwrap_err(), FilterError::Span);
        assert_eq!(span(Some(one), Some(one)).unwrap_err(), FilterError::Span);
        assert!(matches!(span(Some("yesterday"), None), Err(FilterError::Time(_))));
    }

    #[test]
    fn conditions_are_read_as_they_are_typed() {
        let read = |text: &str| condition(text).map(|it| (it.field, it.side, it.not, it.value));
        let value = || "shop".to_owned();
        assert_eq!(read("name=shop"), Ok((Field::Name, Side::Either, false, value())));
        assert_eq!(
            read("from-namespace=shop"),
            Ok((Field::Namespace, Side::Source, false, value()))
        );
        assert_eq!(read("not to-name=shop"), Ok((Field::Name, Side::Destination, true, value())));
        let label = condition("label=app == 'web'").unwrap();
        assert_eq!(label.value, "app == 'web'");
        assert!(read("shop").unwrap_err().contains("write FIELD=VALUE"));
        assert!(read("from-nam=shop").unwrap_err().contains("did you mean `name`?"));
        assert!(read("colour=red").unwrap_err().contains("one of name, namespace"));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        use Field::*;
        for (field, value, said) in [
            (Name, "", "a name"),
            (Name, "a/b/c", "a name"),
            (Name, "/b", "a name"),
            (Ip, "10.0.0.0/33", "an IP address"),
            (Ip, "web", "an IP address"),
            (Port, "http", "a port"),
            (Port, "70000", "a port"),
            (Port, "9-8", "a port"),
            (Port, "-1", "a port"),
            (Port, "+1", "a port"),
            (Label, "app ==", "not a selector"),
            (Verdict, "denied", "did you mean `deny`?"),
            (Reason, "polcy", "did you mean `policy`?"),
            (Protocol, "tcpp", "did you mean `tcp`?"),
            (Protocol, "256", "a protocol"),
            (Event, "drops", "did you mean `drop`?"),
            (Direction, "in", "a direction"),
        ] {
            let error = filter(&[(field, Side::Either, false, value)]).unwrap_err().to_string();
            assert!(error.contains(said), "{value}: {error}");
        }
        let error = filter(&[(Verdict, Side::Source, false, "deny")]).unwrap_err();
        assert_eq!(error, FilterError::Side(Verdict));
    }

    #[test]
    fn what_all_wanted_records_have_is_known() {
        let only = |conditions: &[Typed<'_>]| filter(conditions).unwrap().only();
        assert_eq!(only(&[]), Only::default());
        let one = only(&[
            (Field::Ip, Side::Source, false, "10.0.0.2"),
            (Field::Port, Side::Either, false, "53"),
            (Field::Protocol, Side::Either, false, "UDP"),
        ]);
        let address = "10.0.0.2".parse().ok();
        assert_eq!(one, Only { address, port: Some(53), protocol: Some(17) });
        assert_eq!(only(&[(Field::Protocol, Side::Either, false, "47")]).protocol, Some(47));
        // Two of them, a range, what must not be: nothing that all have.
        for conditions in [
            &[
                (Field::Ip, Side::Source, false, "10.0.0.2"),
                (Field::Ip, Side::Destination, false, "10.0.0.3"),
            ][..],
            &[(Field::Ip, Side::Either, false, "10.0.0.0/24")],
            &[(Field::Port, Side::Either, false, "53-54")],
            &[(Field::Port, Side::Either, false, "53"), (Field::Port, Side::Either, false, "54")],
            &[(Field::Port, Side::Either, true, "53")],
        ] {
            let Only { port, protocol, .. } = only(conditions);
            assert_eq!((port, protocol), (None, None), "{conditions:?}");
        }
        assert_eq!(only(&[(Field::Ip, Side::Either, true, "10.0.0.2")]).address, None);
        assert_eq!(only(&[(Field::Ip, Side::Either, false, "10.0.0.0/24")]).address, None);
    }
}
