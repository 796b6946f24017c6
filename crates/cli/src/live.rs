//! Who is still on the old secret: one live line for each caller in a terminal, a line at each change
//! elsewhere.

use std::io::{IsTerminal, stdout};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyrelay_core::time::{Clock, SystemClock};
use serde_json::json;

use crate::admin::{Movement, SecretStatus, ago, when};
use crate::tell::Tell;

/// Callers that are shown; the rest is counted.
const CALLERS_SHOWN_MAX: usize = 20;

/// Shows it.
#[derive(Debug)]
pub struct Live {
    tell: Tell,
    screen: Option<MultiProgress>,
    lines: Vec<ProgressBar>,
    /// What was told last, and is not told again.
    told: Option<Told>,
}

/// What one line told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Who came with the retiring secret last, and who did not.
    stands: Vec<(String, bool)>,
    /// Whether the retiring secret can go, if there is one.
    is_safe: Option<bool>,
}

impl Live {
    /// Shows nothing yet.
    pub fn start(tell: Tell) -> Self {
        let on_terminal = tell == Tell::Text && stdout().is_terminal();
        let screen = on_terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        Self { tell, screen, lines: Vec::new(), told: None }
    }

    /// Shows where everybody stands.
    pub fn show(&mut self, status: &SecretStatus) {
        let movements = status.movements();
        if self.screen.is_some() {
            let lines = lines(status, &movements);
            self.draw(&lines);
            return;
        }
        let is_safe = status.retiring_secret.as_ref().map(|retiring| retiring.safe_to_retire);
        let stands = movements.iter().map(|movement| (movement.who.clone(), movement.on_retiring)).collect();
        let told = Some(Told { stands, is_safe });
        if self.told != told {
            self.told = told;
            let text = match &status.retiring_secret {
                Some(retiring) => retiring.reason.as_str(),
                None => "There is no retiring secret.",
            };
            let text = status.overdue().fold(text.to_owned(), |text, (name, overdue)| {
                format!("{text} The {name} is too old. {overdue}")
            });
            let more = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
            self.tell.event("callers", &text, more);
        }
    }

    /// Says that the server cannot be asked at the moment.
    pub fn show_problem(&mut self, problem: &str) {
        if self.screen.is_some() {
            self.draw(&[format!("{problem}; asking again")]);
        } else if self.told.take().is_some() {
            self.tell.event("unanswered", &format!("{problem}; asking again"), json!({ "error": problem }));
        }
    }

    fn draw(&mut self, lines: &[String]) {
        let Some(screen) = &self.screen else { return };
        while self.lines.len() < lines.len() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            self.lines.push(screen.add(bar));
        }
        for bar in self.lines.drain(lines.len()..) {
            bar.finish_and_clear();
        }
        for (bar, line) in self.lines.iter().zip(lines) {
            bar.set_message(line.clone());
            bar.tick();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for bar in &self.lines {
            bar.finish_and_clear();
        }
    }
}

fn lines(status: &SecretStatus, movements: &[Movement]) -> Vec<String> {
    let now = SystemClock.now();
    let moved = movements.iter().filter(|movement| !movement.on_retiring).count();
    let head = match &status.retiring_secret {
        Some(retiring) if retiring.safe_to_retire => "the retiring secret can go".to_owned(),
        Some(_) => format!("{moved} of {} callers came with the current secret last", movements.len()),
        None => "there is no retiring secret".to_owned(),
    };
    let mut lines = vec![head];
    for (name, slot) in status.slots() {
        for (what, at) in [("is to be rotated before", &slot.due_by), ("ends at", &slot.expires)] {
            let told = at.as_ref().map(|at| format!("  the {name} {what} {at} ({})", when(at, now)));
            lines.extend(told);
        }
    }
    lines.extend(movements.iter().take(CALLERS_SHOWN_MAX).map(|movement| {
        let (mark, slot) = if movement.on_retiring { ("○", "retiring") } else { ("●", "current") };
        format!("  {mark} {slot:<8}  {}  {}", movement.who, ago(&movement.last_seen, now))
    }));
    if movements.len() > CALLERS_SHOWN_MAX {
        lines.push(format!("  and {} more", movements.len() - CALLERS_SHOWN_MAX));
    }
    lines
}
