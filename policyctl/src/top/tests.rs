//! Boards under keys and samples, and what they look like.

use policy_api::messages::{RuleName, StagedFlows};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn dropped(from: &str, to: &str, port: &str, policy: &str, packets: u64) -> DropCount {
    DropCount {
        direction: "ingress".to_owned(),
        reason: "policy".to_owned(),
        source: from.to_owned(),
        source_namespace: "shop".to_owned(),
        destination: to.to_owned(),
        destination_namespace: "shop".to_owned(),
        protocol: "tcp".to_owned(),
        port: port.to_owned(),
        tier: "default".to_owned(),
        policy_namespace: "shop".to_owned(),
        policy: policy.to_owned(),
        rule: if policy.is_empty() { "tier-default" } else { "ingress[0]" }.to_owned(),
        packets,
        bytes: packets * 60,
    }
}

fn rule(policy: &str, action: &str, packets: u64) -> RuleCount {
    RuleCount {
        rule: RuleName {
            tier: "default".to_owned(),
            namespace: "shop".to_owned(),
            kind: "NetworkPolicy".to_owned(),
            policy: policy.to_owned(),
            rule: "ingress[0]".to_owned(),
            action: action.to_owned(),
        },
        packets,
        bytes: packets * 100,
        staged: StagedFlows::default(),
    }
}

/// Two seconds apart.
fn board() -> Board {
    let mut board = Board::new(View::Drops, Order::Rate, String::new());
    let sample = |at, intruder, web| Sample {
        at: Duration::from_secs(at),
        drops: vec![
            dropped("web", "db", "22", "db", web),
            dropped("intruder", "db", "5432", "db", intruder),
            dropped("intruder", "web", "80", "", 7),
        ],
        rules: vec![rule("db", "deny", web + intruder), rule("web", "allow", 1_000_000 * at)],
    };
    board.take(sample(1, 100, 5000));
    board.take(sample(3, 5100, 5001));
    board
}

fn names(board: &Board) -> Vec<String> {
    board.rows().iter().map(|row| row.names.join(" ")).collect()
}

#[test]
fn rates_are_what_moved_in_a_second() {
    let mut board = board();
    let rows = board.rows();
    assert_eq!(rows[0].names, ["shop/intruder", "shop/db", "5432/tcp", "shop/db ingress[0]"]);
    assert_eq!((rows[0].packets_per_second, rows[0].bytes_per_second), (2500.0, 150_000.0));
    assert_eq!((rows[1].packets_per_second, rows[1].packets), (0.5, 5001));
    assert_eq!((rows[2].packets_per_second, rows[2].names[3].as_str()), (0.0, "tier-default"));
    // An agent that has begun anew counts from zero.
    let drops = vec![dropped("intruder", "db", "5432", "db", 30)];
    board.take(Sample { at: Duration::from_secs(4), drops, rules: Vec::new() });
    assert_eq!(board.rows()[0].packets_per_second, 30.0);
}

#[test]
fn keys_change_the_view_the_order_and_the_filter() {
    let mut board = board();
    assert!(board.press(Key::Char('s')));
    assert_eq!(board.sort, Order::Total);
    assert!(names(&board)[0].starts_with("shop/intruder shop/db"));
    board.press(Key::Char('s'));
    assert!(names(&board)[1].starts_with("shop/intruder shop/web"));
    board.press(Key::Tab);
    assert_eq!(names(&board), ["shop/db ingress", "shop/web ingress"]);
    board.press(Key::Char('3'));
    assert!(names(&board)[0].ends_with("deny"), "{:?}", names(&board));
    board.press(Key::Char('/'));
    for letter in "WEB".chars() {
        board.press(Key::Char(letter));
    }
    // `q` is a letter there.
    assert!(board.press(Key::Char('q')));
    board.press(Key::Backspace);
    board.press(Key::Enter);
    assert_eq!(names(&board).len(), 1);
    board.press(Key::Escape);
    assert_eq!(names(&board).len(), 2);
    assert!(!board.press(Key::Char('q')), "the end");
}

#[test]
fn a_paused_board_stays_as_it_is() {
    let mut board = board();
    let rows = board.rows();
    board.press(Key::Char('p'));
    board.take(Sample::default());
    assert_eq!(board.rows(), rows);
    board.press(Key::Char('p'));
    board.take(Sample::default());
    assert_eq!(board.rows(), []);
}

fn screen(board: &Board, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, board, true)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_screen_has_what_fits() {
    insta::assert_snapshot!("top_wide", screen(&board(), 100, 8));
    insta::assert_snapshot!("top_narrow", screen(&board(), 50, 5));
    let mut board = board();
    board.press(Key::Char('3'));
    board.trouble = Some("no agent answers".to_owned());
    insta::assert_snapshot!("top_rules", screen(&board, 80, 6));
}

#[test]
fn no_screen_is_too_small() {
    let mut board = board();
    for view in View::ALL {
        board.show(view);
        board.offset = 1000;
        for width in [1, 2, 10, 20, 500] {
            for height in [1, 2, 3, 200] {
                screen(&board, width, height);
            }
        }
    }
}
