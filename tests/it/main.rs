//! All integration tests, in one binary.

mod aside;
mod backup;
mod backup_end;
mod beside;
mod bits;
mod broken;
mod canal_contract;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_consumers;
#[cfg(feature = "cli")]
mod cli_forward;
#[cfg(feature = "cli")]
#[rustfmt::skip]
mod cli_replayed;
#[cfg(feature = "cli")]
mod cli_retain;
#[cfg(feature = "cli")]
mod cli_stream;
#[cfg(feature = "cli")]
mod cli_tail;
mod clock;
mod cursor;
mod damage;
mod faults;
#[cfg(feature = "sink-file")]
mod flights;
mod following;
mod fork;
mod full_disk;
mod full_file_system;
mod fuzz_regressions;
mod gaps;
mod golden;
mod graph;
mod group;
mod group_model;
mod hostile;
mod hostile_names;
mod layering;
mod limit;
mod model;
mod outside;
mod parallel;
mod reactor;
mod read_cost;
mod reading;
mod recovery;
mod repair;
mod replaced;
mod retention;
#[cfg(target_os = "linux")]
mod simulation;
mod sink;
#[cfg(feature = "sink-file")]
mod sink_file;
#[cfg(feature = "sink-http")]
mod sink_http;
#[cfg(feature = "sink-kafka")]
mod sink_kafka;
#[cfg(feature = "sink-redis")]
mod sink_redis;
mod standing;
mod streams;
mod subscription;
mod support;
mod tiers;
mod typed;
mod verify;
mod withdrawn;
mod writing;
