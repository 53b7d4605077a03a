//! A measurement in a process of its own.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::measure::Values;
use crate::raw::Outcome;
use crate::stores::{Name, walrus};
use crate::workload::Workload;

/// A measurement that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often it is asked whether it is over.
const LOOK: Duration = Duration::from_millis(2);

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
    let status = wait(&mut child);
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

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("took longer than {} s", PATIENCE.as_secs());
        }
        thread::sleep(LOOK);
    }
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
