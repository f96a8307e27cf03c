//! The bench compares like with like: every contender does the same to the same packets.

use std::time::Duration;

use policy_test::bench::{
    contender::Kind,
    measure::{Figure, Measure, Stage},
    rules,
    topology::CLIENT,
};

/// More than one policy of Palisade's, and two networks.
const RULES: u32 = 150;
/// Each measure sees packets, however short its window; how many is of no interest here.
const WINDOW: Duration = Duration::from_millis(20);

#[test]
fn every_contender_lets_in_the_client_and_counts_each_packet_of_a_stranger() {
    for kind in Kind::ALL {
        let stage = Stage::new(kind, &rules::rules(RULES, CLIENT)).unwrap();
        // A measure fails if the client does not get through, a stranger does, or a rule that is added
        // has no effect. The second change begins with a closed door, if the first one's was closed.
        for measure in Measure::ALL.into_iter().chain([Measure::Update]) {
            let figures = measure
                .run(&stage, WINDOW)
                .unwrap_or_else(|error| panic!("{kind:?}, {measure:?}: {error:#}"));
            for (figure, sample) in figures {
                let fine = match figure {
                    Figure::FloodUncounted => sample == 0.0,
                    // A clock that ticks a hundred times a second, and an agent with nothing to do.
                    Figure::FloodKernel | Figure::FloodAgent => sample >= 0.0,
                    _ => sample > 0.0,
                };
                assert!(fine, "{kind:?}, {figure:?}: {sample}");
            }
        }
    }
}

#[test]
fn without_rules_the_stranger_gets_in() {
    let stage = Stage::new(Kind::NoPolicy, &[]).unwrap();
    let figures = Measure::Flood.run(&stage, WINDOW).unwrap();
    let of = |wanted| figures.iter().find(|(figure, _)| *figure == wanted);
    assert!(of(Figure::FloodPackets).is_some());
    assert!(of(Figure::FloodUncounted).is_none(), "there is nobody who counts");
}
