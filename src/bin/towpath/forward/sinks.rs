//! Where events can be forwarded to: an address becomes a sink. An address may hold secrets, and is never shown as it is.

use std::fs;
use std::io;
use std::path::Path;

use towpath::{FileSink, HttpSink, Sink};

use crate::failure::{Failure, Result};
use crate::import::rejects::is_within;

/// Records that are written together. A file is synced once for all of them; a server may get a request for each, and
/// whoever stops waits for the last of them.
const TO_FILE: usize = 4096;
const TO_SERVER: usize = 256;

/// A sink, and how many records it is best given at once.
pub(super) struct Target {
    pub(super) sink: Box<dyn Sink>,
    pub(super) batch: usize,
}

/// What `--to` says, or for `-` the first line of standard input.
pub(super) fn address(to: &str) -> Result<String> {
    if to != "-" {
        return Ok(to.to_owned());
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|error| Failure::because("could not read standard input", &error))?;
    Ok(line.trim().to_owned())
}

pub(super) fn open(address: &str, store: &Path) -> Result<Target> {
    let Some((scheme, rest)) = address.split_once(':') else {
        return Err(unknown("it has no scheme"));
    };
    match scheme {
        "file" => file(rest, store),
        "http" | "https" => server(HttpSink::to(address)?),
        "redis" | "rediss" => redis(address),
        "kafka" => kafka(address),
        _ => Err(unknown("its scheme is none of these")),
    }
}

fn unknown(why: &str) -> Failure {
    let forms = "file:PATH, http://…, https://…, redis://…, rediss://… or kafka://…";
    Failure::new(format!("the address of --to cannot be used: {why}; it is {forms}"))
}

fn file(path: &str, store: &Path) -> Result<Target> {
    let path = match path.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err(unknown(
                "behind file:// stands a host, and files are on this one; write file:PATH or file:///PATH",
            ));
        }
        None => path,
    };
    // Its directory may be a link, and the sink makes files beside it.
    if is_within(Path::new(path), store) {
        return Err(Failure::new(format!("{path} lies in the store; name a file outside of it")));
    }
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Err(Failure::new(format!("{path} is a directory; name a file in it")));
    }
    let mut sink = FileSink::new(path)?;
    sink.open().map_err(|refusal| Failure::new(format!("{path} cannot be written: {}", refusal.why)))?;
    Ok(Target { sink: Box::new(sink), batch: TO_FILE })
}

fn server(sink: impl Sink + 'static) -> Result<Target> {
    Ok(Target { sink: Box::new(sink), batch: TO_SERVER })
}

#[cfg(feature = "sink-redis")]
fn redis(address: &str) -> Result<Target> {
    server(towpath::RedisSink::to(address)?)
}

#[cfg(not(feature = "sink-redis"))]
fn redis(_: &str) -> Result<Target> {
    Err(not_built_in("redis", "sink-redis"))
}

#[cfg(feature = "sink-kafka")]
fn kafka(address: &str) -> Result<Target> {
    server(towpath::KafkaSink::to(address)?)
}

#[cfg(not(feature = "sink-kafka"))]
fn kafka(_: &str) -> Result<Target> {
    Err(not_built_in("kafka", "sink-kafka"))
}

#[cfg(not(all(feature = "sink-redis", feature = "sink-kafka")))]
fn not_built_in(scheme: &str, feature: &str) -> Failure {
    Failure::new(format!("this towpath was built without {scheme}; build it with the features cli and {feature}"))
}
