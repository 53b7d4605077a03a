//! Tables and charts of the raw results.

mod chart;
#[cfg(test)]
mod fixture;
mod goals;
mod losses;
mod metrics;
mod page;
mod readme;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::raw::Results;

/// Writes RESULTS.md and the charts into a directory, and into the README where there is one to be written.
pub fn write(raw: &Path, out: &Path, readme: Option<&Path>) -> Result<()> {
    let results = Results::read(raw)?;
    ensure!(!results.stores().is_empty(), "there is nothing to report in {}", raw.display());
    let charts = out.join("charts");
    fs::create_dir_all(&charts)?;
    for group in metrics::groups() {
        chart::draw(&results, &group, &charts.join(format!("{}.svg", group.key)))?;
    }
    fs::write(out.join("RESULTS.md"), page::whole(&results))?;
    println!("{}", page::short(&results, "charts"));
    if let Some(path) = readme {
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let text = readme::replace(&text, &page::short(&results, "benches/compare/charts"))
            .with_context(|| format!("could not change {}", path.display()))?;
        fs::write(path, text)?;
    }
    Ok(())
}
