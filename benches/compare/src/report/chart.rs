//! Charts: a bar a store, from the best to the worst, on a scale of powers of ten.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::raw::{Figure, Results};
use crate::report::metrics::{Group, Metric};
use crate::stores::Name;

/// Of one panel, in pixels.
const WIDTH: u32 = 470;
const LINE: u32 = 26;
const HEAD: i32 = 46;
const FOOT: i32 = 30;
/// Where bars begin, and what is left for the figure behind the longest.
const BARS: i32 = 118;
const BEHIND: i32 = 82;

const OURS: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const THEIRS: RGBColor = RGBColor(0x6b, 0x86, 0xa8);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0x99, 0x99, 0x99);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

struct Bar {
    name: &'static str,
    figure: f64,
    label: String,
    ours: bool,
}

/// Two panels beside each other, on white so that it can be read on a dark page, too.
pub fn draw(results: &Results, group: &Group, path: &Path) -> Result<()> {
    let panels: Vec<(&Metric, Vec<Bar>)> = group
        .charted
        .iter()
        .filter_map(|place| group.metrics.get(*place))
        .map(|metric| (metric, bars(results, metric)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(());
    }
    let most = panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0) as u32;
    let height = HEAD as u32 + most * LINE + FOOT as u32;
    let rows = panels.len().div_ceil(2);
    let root = SVGBackend::new(path, (2 * WIDTH, 34 + rows as u32 * height)).into_drawing_area();
    let drawn = (|| {
        root.fill(&WHITE)?;
        text(&root, group.title, (2 * WIDTH as i32 / 2, 20), 18.0, INK, HPos::Center)?;
        let (_, below) = root.split_vertically(34);
        for (area, (metric, bars)) in below.split_evenly((rows, 2)).iter().zip(&panels) {
            panel(area, metric, bars)?;
        }
        root.present()
    })();
    drawn.map_err(|error: DrawingAreaErrorKind<std::io::Error>| anyhow!("could not draw {}: {error}", path.display()))
}

fn bars(results: &Results, metric: &Metric) -> Vec<Bar> {
    let bar = |store: &Name| match results.figure(*store, metric.workload, metric.value) {
        Figure::Measured { summary, marks } => {
            let signs: String = marks.iter().map(|mark| mark.sign()).collect();
            let label = format!("{}{signs}", metric.unit.show(summary.median));
            Some(Bar { name: store.profile().name, figure: summary.median, label, ours: *store == Name::Towpath })
        }
        _ => None,
    };
    let mut bars: Vec<Bar> = Name::ALL.iter().filter_map(bar).collect();
    bars.sort_by(|one, other| one.figure.total_cmp(&other.figure));
    if metric.unit.more_is_better() {
        bars.reverse();
    }
    bars
}

fn panel(area: &Area<'_>, metric: &Metric, bars: &[Bar]) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let figures = || bars.iter().map(|bar| bar.figure.max(1e-3));
    // From a power of ten well below the smallest, so that every bar has a length, to the largest.
    let first = (figures().fold(f64::INFINITY, f64::min).log10() - 0.3).floor();
    let last = figures().fold(0.0, f64::max).log10().max(first + 1.0);
    let width = f64::from(WIDTH as i32 - BARS - BEHIND);
    let place = |figure: f64| BARS + ((figure.max(1e-3).log10() - first) / (last - first) * width).round() as i32;
    let foot = HEAD + bars.len() as i32 * LINE as i32;
    let way = if metric.unit.more_is_better() { "more is better" } else { "less is better" };
    text(area, &metric.title, (12, 14), 14.0, INK, HPos::Left)?;
    let scale = format!("{}, scale of powers of ten, {way}", metric.unit.name());
    text(area, &scale, (12, 30), 11.0, FAINT, HPos::Left)?;
    for power in first as i32..=last.floor() as i32 {
        let x = place(10_f64.powi(power));
        area.draw(&PathElement::new(vec![(x, HEAD - 4), (x, foot)], GRID))?;
        text(area, &tick(power), (x, foot + 8), 11.0, FAINT, HPos::Center)?;
    }
    for (number, bar) in bars.iter().enumerate() {
        let top = HEAD + number as i32 * LINE as i32;
        let middle = top + LINE as i32 / 2 - 2;
        let (color, x) = (if bar.ours { OURS } else { THEIRS }, place(bar.figure));
        area.draw(&Rectangle::new([(BARS, top), (x.max(BARS + 1), top + LINE as i32 - 6)], color.filled()))?;
        text(area, bar.name, (BARS - 8, middle), 13.0, if bar.ours { OURS } else { INK }, HPos::Right)?;
        text(area, &bar.label, (x.max(BARS + 1) + 6, middle), 12.0, INK, HPos::Left)?;
    }
    Ok(())
}

/// A power of ten, in short.
fn tick(power: i32) -> String {
    let (unit, rest) = match power {
        6.. => (" M", power - 6),
        3..=5 => (" k", power - 3),
        _ => ("", power),
    };
    format!("{}{unit}", 10_f64.powi(rest))
}

fn text(
    area: &Area<'_>,
    text: &str,
    place: (i32, i32),
    size: f64,
    color: RGBColor,
    side: HPos,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let style = ("sans-serif", size).into_text_style(area).color(&color).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), place, style))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::results;
    use crate::report::metrics::groups;

    #[test]
    fn ticks_are_short() {
        assert_eq!([7, 3, 2, 0, -2].map(tick), ["10 M", "1 k", "100", "1", "0.01"]);
    }

    #[test]
    fn a_chart_has_the_figures_of_all_stores_the_best_first() {
        let results =
            results(&[(Name::Towpath, "replay", 30e6), (Name::Lmdb, "replay", 35e6), (Name::Batpak, "replay", 0.4e6)]);
        let path = std::env::temp_dir().join(format!("compare-chart-{}.svg", std::process::id()));
        draw(&results, &groups()[2], &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let places = ["35.0 M", "30.0 M", "400 k"].map(|label| svg.find(label).unwrap());
        assert!(places.is_sorted());
        assert!(!svg.contains("redb"));
    }
}
