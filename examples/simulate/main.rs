//! Simulates stores on disks that fail, a seed each.
//!
//! `cargo run --release --example simulate -- --seeds 1000 --start 1`
//!
//! Ends with 1 at the first seed in which something was seen that a store must not show, and says which and what: the same
//! seed shows it again.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    use towpath::simulation::{Figures, run};

    let Some((seeds, start)) = arguments() else {
        eprintln!("usage: simulate [--seeds N] [--start S]");
        return ExitCode::from(2);
    };
    let begun = std::time::Instant::now();
    let mut figures = Figures::default();
    // A panic of the store is told with its seed.
    std::panic::set_hook(Box::new(|_| ()));
    for seed in start..start.saturating_add(seeds) {
        match run(seed) {
            Ok(more) => figures += more,
            Err(why) => {
                eprintln!("seed {seed}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{figures}");
    println!("seconds                        {:>12.1}", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the simulated disk needs Linux");
}

/// How many seeds, and the first.
#[cfg(target_os = "linux")]
fn arguments() -> Option<(u64, u64)> {
    let (mut seeds, mut start) = (100, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--seeds" => seeds = value,
            "--start" => start = value,
            _ => return None,
        }
    }
    Some((seeds, start))
}
