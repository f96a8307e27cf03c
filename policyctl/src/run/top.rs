//! `top`: the agent's counters, again and again. Input: an agent, keys; output: a screen, or tables one
//! below the other.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time;

use crate::client::Client;
use crate::command::Top;
use crate::failure::{Exit, Failure};
use crate::output::Screen;
use crate::top::draw;
use crate::top::{Board, Key, Sample};

pub(super) async fn top(client: &Client, screen: &Screen, top: Top) -> Result<Exit, Failure> {
    let mut board = Board::new(top.view, top.sort, top.filter);
    let start = Instant::now();
    // Whoever cannot be asked is reported as by every other command, and not on a screen.
    board.take(sample(client, start).await?);
    if let Some(count) = top.batch {
        for shown in 0..count {
            time::sleep(top.interval).await;
            board.take(sample(client, start).await?);
            let between = if shown == 0 { "" } else { "\n" };
            screen.print(&format!("{between}{}", draw::lines(&board)))?;
        }
        return Ok(Exit::Fine);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "top needs a terminal; elsewhere write `policyctl top --batch 1`",
        ));
    }
    let mut terminal = ratatui::try_init()?;
    let shown = show(client, &mut terminal, &mut board, start, top.interval, screen.is_coloured());
    let shown = shown.await;
    ratatui::try_restore()?;
    shown?;
    Ok(Exit::Fine)
}

async fn sample(client: &Client, start: Instant) -> Result<Sample, Failure> {
    let (drops, rules) = (client.drops().await?, client.rules().await?);
    Ok(Sample { at: start.elapsed(), drops, rules })
}

/// Until a key says that it is enough.
async fn show(
    client: &Client,
    terminal: &mut DefaultTerminal,
    board: &mut Board,
    start: Instant,
    every: Duration,
    coloured: bool,
) -> Result<(), Failure> {
    let mut keys = keys();
    // Beside the keys: an agent that hangs does not keep anybody from leaving.
    let look = || async move {
        time::sleep(every).await;
        sample(client, start).await
    };
    let mut looking = Box::pin(look());
    loop {
        terminal.draw(|frame| draw::draw(frame, board, coloured))?;
        tokio::select! {
            pressed = keys.recv() => match pressed {
                Some(Pressed::Key(key)) if !board.press(key) => return Ok(()),
                Some(Pressed::Key(_) | Pressed::Resized) => {}
                Some(Pressed::End) | None => return Ok(()),
            },
            found = &mut looking => {
                match found {
                    Ok(sample) => board.take(sample),
                    // The agent may be about to come back.
                    Err(failure) => board.trouble = Some(failure.to_string()),
                }
                looking = Box::pin(look());
            }
        }
    }
}

/// What a terminal tells.
enum Pressed {
    Key(Key),
    Resized,
    /// Ctrl-C, or the terminal is gone.
    End,
}

/// Reads keys on a thread of its own: waiting for one cannot be called off.
fn keys() -> mpsc::UnboundedReceiver<Pressed> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        loop {
            let pressed = match event::read() {
                Ok(Event::Key(pressed)) if pressed.kind != KeyEventKind::Release => key(pressed),
                Ok(Event::Resize(..)) => Some(Pressed::Resized),
                Ok(_) => None,
                Err(_) => Some(Pressed::End),
            };
            let is_end = matches!(pressed, Some(Pressed::End));
            if pressed.is_some_and(|pressed| sender.send(pressed).is_err()) || is_end {
                return;
            }
        }
    });
    receiver
}

fn key(pressed: KeyEvent) -> Option<Pressed> {
    if pressed.modifiers.contains(KeyModifiers::CONTROL) {
        return (pressed.code == KeyCode::Char('c')).then_some(Pressed::End);
    }
    Some(Pressed::Key(match pressed.code {
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    }))
}
