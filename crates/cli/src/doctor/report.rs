//! What was found, for people and for machines.

use std::process::ExitCode;

use serde::Serialize;

use crate::say::say;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    #[serde(rename = "check")]
    of: &'static str,
    status: Status,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Debug, Default)]
pub struct Report(Vec<Check>);

#[derive(Serialize)]
struct Answer<'a> {
    ok: bool,
    checks: &'a [Check],
}

impl Report {
    pub fn ok(&mut self, of: &'static str, said: impl Into<String>) {
        self.0.push(Check { of, status: Status::Ok, said: said.into(), advice: None });
    }

    pub fn warn(&mut self, of: &'static str, said: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Check { of, status: Status::Warn, said: said.into(), advice });
    }

    pub fn fail(&mut self, of: &'static str, said: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Check { of, status: Status::Fail, said: said.into(), advice });
    }

    /// Prints all, and gives the exit code.
    pub fn print(&self, as_json: bool) -> ExitCode {
        let ok = self.0.iter().all(|check| check.status != Status::Fail);
        if as_json {
            say!("{:#}", serde_json::json!(Answer { ok, checks: &self.0 }));
        } else {
            for Check { of, status, said, advice } in &self.0 {
                let status = match status {
                    Status::Ok => "ok  ",
                    Status::Warn => "warn",
                    Status::Fail => "FAIL",
                };
                say!("{status}  {of}: {said}");
                if let Some(advice) = advice {
                    say!("      -> {advice}");
                }
            }
        }
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
