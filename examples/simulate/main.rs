//! Simulates stores on disks that fail, a seed each.
//!
//! `cargo run --release --example simulate -- --seeds 1000 --start 1`
//!
//! Ends with 1 at the first seed in which something was seen that a store must not show, and says which and what: the same
//! seed shows it again. With `--go-on` it tells all such seeds.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    use towpath::simulation::{Figures, run_as_of};

    let Some(Arguments { seeds, start, goes_on, edition }) = Arguments::read() else {
        eprintln!("usage: simulate [--seeds N] [--start S] [--go-on] [--edition N]");
        return ExitCode::from(2);
    };
    let begun = std::time::Instant::now();
    let (mut figures, mut failed) = (Figures::default(), 0_u64);
    // A panic of the store is told with its seed.
    std::panic::set_hook(Box::new(|_| ()));
    for seed in start..start.saturating_add(seeds) {
        match run_as_of(edition, seed) {
            Ok(more) => figures += more,
            Err(what) => {
                eprintln!("seed {seed}: {what}");
                figures += what.figures;
                failed += 1;
                if !goes_on {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!("{figures}");
    println!("{:<34}{failed:>12}", "seeds that failed");
    println!("{:<34}{:>12.1}", "seconds", begun.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the simulated disk needs Linux");
}

#[cfg(target_os = "linux")]
struct Arguments {
    seeds: u64,
    start: u64,
    goes_on: bool,
    edition: u32,
}

#[cfg(target_os = "linux")]
impl Arguments {
    fn read() -> Option<Self> {
        let mut read = Self { seeds: 100, start: 0, goes_on: false, edition: towpath::simulation::EDITION };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--seeds" => read.seeds = arguments.next()?.parse().ok()?,
                "--start" => read.start = arguments.next()?.parse().ok()?,
                "--edition" => read.edition = arguments.next()?.parse().ok()?,
                "--go-on" => read.goes_on = true,
                _ => return None,
            }
        }
        Some(read)
    }
}
