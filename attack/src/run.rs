//! Runs the rows: sets the scene, lets tenant B work, attacks, and judges the result.

use std::time::Duration;

use anyhow::Result;
use keyrelay_bench::process::Memory;

use crate::clock::Stopwatch;
use crate::report::Line;
use crate::rows::{ROWS, Row, Verdict};
use crate::scene::{Kind, Scene, Setting};
use crate::tenant::Work;

/// The bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most resident memory, in bytes, that the server may have after the rows about memory.
    pub memory_max: u64,
}

/// Runs the chosen rows, and passes each line to `show` as soon as it is known. True if all hold.
///
/// # Errors
/// When nothing can be run at all.
pub fn run(
    setting: &Setting,
    bounds: Bounds,
    chosen: impl Fn(&Row) -> bool,
    show: &mut dyn FnMut(Line),
) -> Result<bool> {
    let rows: Vec<&Row> = ROWS.iter().copied().flatten().filter(|row| chosen(row)).collect();
    let mut all_hold = true;
    let mut tell = |line: Line| {
        all_hold &= line.verdict.is_good();
        show(line);
    };
    let mut shared: Option<Scene<'_>> = None;
    for row in &rows {
        if let Some(reason) = row.left_out(setting) {
            tell(Line::skipped(row.name, reason));
            continue;
        }
        match row.scene {
            Kind::Large => {}
            Kind::Many => {
                let scene = match shared.take() {
                    Some(scene) => Ok(scene),
                    None => Scene::set(setting, Kind::Many),
                };
                match scene {
                    Ok(scene) => {
                        tell(one(row, &scene));
                        // If a row has killed the server, the next row must not be blamed.
                        shared = scene.memory().is_ok().then_some(scene);
                    }
                    Err(error) => tell(Line::unset(row.name, &error)),
                }
            }
            kind => match Scene::set(setting, kind) {
                Ok(scene) => tell(one(row, &scene)),
                Err(error) => tell(Line::unset(row.name, &error)),
            },
        }
    }
    drop(shared);
    let large: Vec<&Row> = rows.into_iter().filter(|row| row.scene == Kind::Large).collect();
    if !large.is_empty() {
        match Scene::set(setting, Kind::Large) {
            Ok(scene) => at_once(&large, &scene, bounds).into_iter().for_each(&mut tell),
            Err(error) => large.iter().for_each(|row| tell(Line::unset(row.name, &error))),
        }
    }
    Ok(all_hold)
}

/// One row alone.
fn one(row: &Row, scene: &Scene<'_>) -> Line {
    let (watch, stopwatch) = (scene.watch(), Stopwatch::start());
    let attacked = (row.run)(scene);
    let took = stopwatch.elapsed();
    Line { took, ..judge(row, attacked, watch.stop(), scene.memory(), None) }
}

/// All rows at the same time, with the bound of memory after them.
fn at_once(rows: &[&Row], scene: &Scene<'_>, bounds: Bounds) -> Vec<Line> {
    let (watch, stopwatch) = (scene.watch(), Stopwatch::start());
    let attacked: Vec<Result<Verdict>> = std::thread::scope(|scope| {
        let threads: Vec<_> = rows.iter().map(|row| scope.spawn(|| (row.run)(scene))).collect();
        let ended = |_| anyhow::anyhow!("the thread of the row ended early");
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| Err(ended(panic)))).collect()
    });
    let (took, work) = (stopwatch.elapsed(), watch.stop());
    let memory = scene.memory();
    let judged = rows.iter().zip(attacked).map(|(row, attacked)| {
        let work = work.as_ref().cloned().map_err(|error| anyhow::anyhow!("{error:#}"));
        let memory = memory.as_ref().copied().map_err(|error| anyhow::anyhow!("{error:#}"));
        Line { took, ..judge(row, attacked, work, memory, Some(bounds)) }
    });
    judged.collect()
}

fn judge(
    row: &Row,
    attacked: Result<Verdict>,
    work: Result<Work>,
    memory: Result<Memory>,
    bounds: Option<Bounds>,
) -> Line {
    let mut verdict = attacked.unwrap_or_else(|error| Verdict::Fails(format!("{error:#}")));
    let work = match work {
        Ok(work) => work,
        Err(error) => {
            verdict = verdict.and_fails(&format!("{error:#}"));
            Work::default()
        }
    };
    // While the disk is full, every change is refused with an answer.
    let faults = if row.scene == Kind::DiskFull { work.unanswered() } else { work.faults() };
    if !faults.is_empty() {
        verdict = verdict.and_fails(&format!("tenant B: {}", faults.join("; ")));
    }
    match &memory {
        Err(_) => verdict = verdict.and_fails("the server has ended"),
        Ok(memory) => {
            if let Some(bounds) = bounds.filter(|bounds| memory.peak > bounds.memory_max) {
                let max = bounds.memory_max / (1024 * 1024);
                verdict = verdict.and_fails(&format!("more than {max} MiB were resident"));
            }
        }
    }
    Line { name: row.name, verdict, memory: memory.ok(), work: Some(work), took: Duration::ZERO }
}
