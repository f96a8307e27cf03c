//! `observe`'s filters. Input: the command line, where `--not` is about the filter behind it; output:
//! [`FilterArgs`], in the order in which they were typed.
//!
//! Written out and not derived: clap's derive knows of no order among options.

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use policy_api::flow::{Condition, Field, Side};

/// The conditions, and nothing of their meaning yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterArgs(pub(crate) Vec<Condition>);

const NOT: &str = "not";
const SIDES: [(Side, &str); 3] =
    [(Side::Either, ""), (Side::Source, "from-"), (Side::Destination, "to-")];

/// Every filter: its field, its side, its option.
fn filters() -> impl Iterator<Item = (Field, Side, String)> {
    Field::ALL.into_iter().flat_map(|field| {
        let sides =
            SIDES.into_iter().filter(move |(side, _)| field.has_sides() || *side == Side::Either);
        sides.map(move |(side, prefix)| (field, side, format!("{prefix}{}", field.name())))
    })
}

/// The option's value and what it says; the forms with a side say it by their names.
const fn help(field: Field) -> (&'static str, &'static str) {
    match field {
        Field::Name => ("NAME", "Workload, network set, `host` or `world`; NAMESPACE/NAME, too"),
        Field::Namespace => ("NS", "Namespace of a workload"),
        Field::Label => ("SELECTOR", "Selector of a workload's labels, such as \"app == 'web'\""),
        Field::Ip => ("IP|CIDR", "Address, or a network that it is in"),
        Field::Port => ("PORT", "Port, or FIRST-LAST"),
        Field::Verdict => ("VERDICT", "allow or deny"),
        Field::Reason => ("REASON", "Reason for the drop, such as policy or spoofed-source"),
        Field::Policy => ("POLICY", "Policy that decided, logged, or would; NAMESPACE/NAME, too"),
        Field::Protocol => ("PROTO", "tcp, udp, icmp, icmpv6, sctp, udplite, or a number"),
        Field::Event => (
            "EVENT",
            "drop, log (a Log rule matched), staged (it would be denied), open or close (of a flow)",
        ),
        Field::Direction => ("DIR", "ingress or egress, as seen from the endpoint that decided"),
    }
}

impl clap::Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let mut command = command.next_help_heading("Filters");
        for (field, side, option) in filters() {
            let (value, text) = help(field);
            let text = match side {
                Side::Either if field.has_sides() => format!("{text}; of either end"),
                Side::Either => text.to_owned(),
                Side::Source => "The same, of the source".to_owned(),
                Side::Destination => "The same, of the destination".to_owned(),
            };
            let arg = Arg::new(option.clone())
                .long(option)
                .value_name(value)
                .value_parser(NonEmptyStringValueParser::new())
                .allow_hyphen_values(false)
                .action(ArgAction::Append)
                .help(text);
            command = command.arg(match (field, side) {
                (Field::Namespace, Side::Either) => arg.short('n'),
                (Field::Label, Side::Either) => arg.short('l'),
                _ => arg,
            });
        }
        command
            .arg(
                Arg::new(NOT)
                    .long(NOT)
                    .num_args(0)
                    .default_missing_value("true")
                    .value_parser(clap::value_parser!(bool))
                    .action(ArgAction::Append)
                    .help("The filter behind this must not hold"),
            )
            .next_help_heading(None::<&str>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        // What stands on the command line, by its place there; `None` is a `--not`.
        let mut typed: Vec<(usize, Option<Condition>)> = Vec::new();
        for (field, side, option) in filters() {
            let places = matches.indices_of(&option).into_iter().flatten();
            let values = matches.get_many::<String>(&option).into_iter().flatten();
            typed.extend(places.zip(values).map(|(place, value)| {
                (place, Some(Condition { field, side, not: false, value: value.clone() }))
            }));
        }
        typed.extend(matches.indices_of(NOT).into_iter().flatten().map(|place| (place, None)));
        typed.sort_by_key(|(place, _)| *place);
        let mut conditions = Vec::new();
        let mut not = false;
        for (_, condition) in typed {
            match condition {
                Some(condition) => {
                    conditions.push(Condition { not, ..condition });
                    not = false;
                }
                None if not => return Err(misplaced("`--not` stands twice before one filter")),
                None => not = true,
            }
        }
        if not {
            return Err(misplaced("`--not` stands behind the last filter, and is about none"));
        }
        Ok(FilterArgs(conditions))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn misplaced(message: &str) -> Error {
    Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n"))
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    fn read(line: &str) -> Result<Vec<String>, Error> {
        let command = FilterArgs::augment_args(Command::new("observe").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        let text = |it: &Condition| {
            let not = if it.not { "not " } else { "" };
            format!("{not}{:?} {} {}", it.side, it.field.name(), it.value)
        };
        Ok(FilterArgs::from_arg_matches(&matches)?.0.iter().map(text).collect())
    }

    #[test]
    fn not_is_about_the_filter_behind_it() {
        for (line, expected) in [
            ("", vec![]),
            ("--name web --verdict deny", vec!["Either name web", "Either verdict deny"]),
            ("--not --name web --name db", vec!["not Either name web", "Either name db"]),
            (
                "--port 1 --not --from-port 2 --to-port 3 --not --port 4",
                vec![
                    "Either port 1",
                    "not Source port 2",
                    "Destination port 3",
                    "not Either port 4",
                ],
            ),
            ("-n shop -l has(app)", vec!["Either namespace shop", "Either label has(app)"]),
        ] {
            assert_eq!(read(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn not_without_a_filter_is_refused() {
        for line in ["--not", "--name web --not", "--not --not --name web"] {
            assert!(read(line).unwrap_err().to_string().contains("`--not` stands"), "{line}");
        }
        assert!(read("--from-verdict deny").is_err());
        assert!(read("--name=").is_err());
    }
}
