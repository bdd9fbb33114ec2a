//! `springhouse conformance FILE`: cases with known answers, through the doors of the product.
//!
//! A case is one JSON object a line: a view, events in their order of arrival, questions, and the expected answers. Each
//! case becomes a real project in a temporary folder: definitions in a registry, Parquet files, a log, an online store.

mod case;
mod doors;
mod exact;
mod files;
mod topic;
mod workers;

use crate::output;
use anyhow::{Context, bail};
use case::Case;
use clap::Args;
use doors::{Door, Place};
use springhouse_online_redis::{RedisSettings, RowLayout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Differences printed in full; the others are only counted.
const DIFFERENCES_PRINTED_MAX: usize = 50;
/// Cases run at the same time: enough to overlap the log's syncs, few enough to bound open files.
const CASES_AT_ONCE: usize = 8;

/// Arguments of `springhouse conformance`.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// Cases, one JSON object a line.
    file: PathBuf,
    /// Only these doors: 1 training set, 2 history materialised, 3 pushed, 4 history, stream and a restart,
    /// 5 messages of a topic with redeliveries and restarts, 6 the same with several workers (with `--redis`),
    /// 7 training sets with an event cache, over a history that grows.
    #[arg(long, value_delimiter = ',')]
    doors: Vec<u8>,
    /// Seed of what is random: where history is handed to the stream, the restart, redeliveries.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only the case of this name.
    #[arg(long)]
    case: Option<String>,
    /// Where the temporary projects go.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Keep online values in the Redis server at this address, each case under a key prefix of its own, instead of embedded.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

/// What one door made of one case.
#[derive(Debug, Default)]
pub(crate) struct DoorResult {
    pub(crate) agreed: u64,
    pub(crate) differences: Vec<String>,
}

pub(crate) async fn run(args: ConformanceArgs) -> anyhow::Result<ExitCode> {
    let cases = read_cases(&args)?;
    let doors: Vec<Door> = match args.doors.as_slice() {
        // Workers need a store that several processes can write.
        [] => Door::ALL.into_iter().filter(|door| *door != Door::Workers || args.redis.is_some()).collect(),
        some => some.iter().map(|number| Door::by_number(*number)).collect::<anyhow::Result<_>>()?,
    };
    let scratch = match &args.scratch {
        Some(folder) => tempfile::TempDir::new_in(folder),
        None => tempfile::TempDir::new(),
    }
    .context("no temporary folder can be made")?;
    output::note(&format!("{} cases, {} doors, seed {}", cases.len(), doors.len(), args.seed));

    let permits = Arc::new(tokio::sync::Semaphore::new(CASES_AT_ONCE));
    let mut tasks = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        let permit = permits.clone().acquire_owned().await.context("the semaphore is never closed")?;
        let redis = args.redis.clone();
        let (doors, folder, seed) = (doors.clone(), scratch.path().join(format!("case-{number}")), args.seed);
        tasks.push(tokio::spawn(async move {
            let _permit = permit;
            let mut results = Vec::new();
            for door in doors {
                let redis = redis.as_ref().map(|url| RedisSettings {
                    urls: vec![url.clone()],
                    key_prefix: format!("conformance-{}.{number}.{}", std::process::id(), door.number()),
                    // Wherever rows are.
                    row_layout: if number.is_multiple_of(2) { RowLayout::View } else { RowLayout::Entity },
                    ..RedisSettings::default()
                });
                let folder = folder.join(format!("door-{}", door.number()));
                let place = Place { folder, redis, has_workers: door == Door::Workers };
                let result = doors::run(door, &case, &place, seed ^ number as u64).await;
                results
                    .push((door, result.with_context(|| format!("{}: door {}", case.name, door.number()))));
            }
            // The folder of a finished case is of no further use; a failure to delete it is not the case's.
            let _ = std::fs::remove_dir_all(&folder);
            results
        }));
    }
    let mut totals: std::collections::BTreeMap<Door, DoorResult> = Default::default();
    for task in tasks {
        for (door, result) in task.await.context("a case panicked")? {
            let total = totals.entry(door).or_default();
            match result {
                Ok(result) => {
                    total.agreed += result.agreed;
                    total.differences.extend(result.differences);
                }
                Err(error) => total.differences.push(format!("{error:#}")),
            }
        }
    }
    Ok(report(&totals))
}

fn read_cases(args: &ConformanceArgs) -> anyhow::Result<Vec<Case>> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("the case file {} can't be read", args.file.display()))?;
    let mut cases = Vec::new();
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let case: Case = serde_json::from_str(text)
            .with_context(|| format!("{}:{}: not a case", args.file.display(), line + 1))?;
        case.check().with_context(|| format!("{}:{}: not a case", args.file.display(), line + 1))?;
        if args.case.as_ref().is_none_or(|name| *name == case.name) {
            cases.push(case);
        }
    }
    if cases.is_empty() {
        bail!("there is no case to run in {}", args.file.display());
    }
    Ok(cases)
}

fn report(totals: &std::collections::BTreeMap<Door, DoorResult>) -> ExitCode {
    let mut differences = 0;
    for (door, total) in totals {
        differences += total.differences.len();
        output::data(&format!(
            "door {} {:<44} {:>9} values agreed, {} differ",
            door.number(),
            door.title(),
            total.agreed,
            total.differences.len()
        ));
        for difference in total.differences.iter().take(DIFFERENCES_PRINTED_MAX) {
            output::data(&format!("  {difference}"));
        }
        if total.differences.len() > DIFFERENCES_PRINTED_MAX {
            output::data(&format!("  ... and {} more", total.differences.len() - DIFFERENCES_PRINTED_MAX));
        }
    }
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
