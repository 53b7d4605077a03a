//! A measurement in a process of its own.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::measure::Values;
use crate::raw::Outcome;
use crate::stores::{Name, walrus};
use crate::workload::Workload;

/// A measurement that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(240);

/// Measures in the directory; what goes wrong is an outcome, too.
pub fn measure(store: Name, workload: Workload, dir: &Path, quick: bool, stored: u64) -> Outcome {
    let mut command = match this_program(dir) {
        Ok(command) => command,
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    command.args(["measure", store.key(), &workload.key()]).arg(dir).args(["--stored", &stored.to_string()]);
    if quick {
        command.arg("--quick");
    }
    match output(&mut command).and_then(|text| values(&text)) {
        Ok(values) => Outcome::Values(values),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Whether the store gives back what it was given.
pub fn equal(store: Name, dir: &Path) -> Result<()> {
    output(this_program(dir)?.args(["equal", store.key()]).arg(dir)).map(drop)
}

fn this_program(dir: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env(walrus::DIRECTORY, dir)
        .env("WALRUS_QUIET", "1")
        .env("RUST_BACKTRACE", "0")
        .env_remove("WALRUS_INSTANCE_KEY");
    Ok(command)
}

fn output(command: &mut Command) -> Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let reading = thread::spawn(move || text(&mut stdout));
    let complaining = thread::spawn(move || text(&mut stderr));
    let status = wait(&mut child, PATIENCE);
    let (said, complaint) = (reading.join(), complaining.join());
    let said = said.map_err(|_| anyhow!("could not read what the measurement said"))?;
    let status = status?;
    if !status.success() {
        let complaint = complaint.unwrap_or_default();
        let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        bail!("{status}: {}", lines.join(" / ").chars().take(300).collect::<String>());
    }
    Ok(said)
}

/// Waits without looking again and again, which would take time from what is measured.
fn wait(child: &mut Child, patience: Duration) -> Result<std::process::ExitStatus> {
    let process = Pid::from_child(child);
    let (tell, over) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = over.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
        // It has not been waited for yet, so the number is still its own.
        late && kill_process(process, Signal::KILL).is_ok()
    });
    // Does not reap it, so that the watch cannot hit another process.
    let ended = waitid(WaitId::Pid(process), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    drop(tell);
    let killed = watch.join().map_err(|_| anyhow!("could not watch the measurement"))?;
    let status = child.wait()?;
    ended?;
    if killed {
        bail!("took longer than {} s", patience.as_secs());
    }
    Ok(status)
}

fn text(from: &mut Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What cannot be read is missing, which is noticed.
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last line: some stores talk before it.
fn values(said: &str) -> Result<Values> {
    let last = said.lines().last().context("the measurement said nothing")?;
    serde_json::from_str(last).with_context(|| format!("the measurement said {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: &str, patience: Duration) -> Result<()> {
        wait(&mut Command::new("sleep").arg(seconds).spawn()?, patience).map(drop)
    }

    #[test]
    fn a_measurement_that_never_ends_is_ended_and_another_is_left_alone() {
        let error = run("infinity", Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "took longer than 0 s");
        run("0", Duration::from_secs(60)).unwrap();
    }
}
