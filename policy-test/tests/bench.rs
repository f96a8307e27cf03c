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
/// Enough for each measure to see packets; how many is of no interest here.
const WINDOW: Duration = Duration::from_millis(20);

#[test]
fn every_contender_lets_in_the_client_and_counts_each_packet_of_a_stranger() {
    for kind in Kind::ALL {
        let stage = Stage::new(kind, &rules::rules(RULES, CLIENT)).unwrap();
        for measure in Measure::ALL {
            // Fails if the client does not get through, a stranger does, or a rule that is added has no
            // effect or is not closed again: the second round begins with a closed door.
            for round in 0..2 {
                let figures = measure
                    .run(&stage, WINDOW)
                    .unwrap_or_else(|error| panic!("{kind:?}, {measure:?}, {round}: {error:#}"));
                for (figure, sample) in figures {
                    let wanted = match figure {
                        Figure::FloodUncounted => sample == 0.0,
                        // A clock that ticks a hundred times a second, and an agent with nothing to do.
                        Figure::FloodKernel | Figure::FloodAgent => sample >= 0.0,
                        _ => sample > 0.0,
                    };
                    assert!(wanted, "{kind:?}, {figure:?}: {sample}");
                }
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
