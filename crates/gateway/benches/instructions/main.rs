//! How many instructions the gateway spends on a call, counted by callgrind: a figure that a busy machine does not move.
//!
//! `cargo bench --bench instructions` counts and compares with `reference.json`; 5 % more than there is a failure. The gateway runs in a
//! process of its own under valgrind and is asked by this one, which plays client and provider in lockstep: each byte goes
//! out only when the one before has arrived, so that no run sees other reads and writes than another. A case is run with few
//! calls and with many, and the difference divided by the calls between them: start and warm-up fall out. Only the serving
//! thread is counted; what the background thread does depends on the clock.

mod call;
mod served;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use self::call::{CASES, Calls, Case};

/// Calls of the short and of the long run.
const RUNS: [u32; 2] = [100, 500];
/// More instructions than the reference has, in hundredths, that are a failure.
const ALLOWED: f64 = 5.0;

const USAGE: &str = "usage: instructions [--write] [CASE …]       count, and compare with the reference (--write: make it anew)
       instructions --native COUNT [CASE …]  the same calls without valgrind: microseconds a call, of time and of processor";

fn main() -> ExitCode {
    // What `cargo bench` adds says nothing here.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--serve", upstream] => served::serve(upstream),
        ["--native", count, names @ ..] => native(count, names),
        ["--write", names @ ..] => count(names, true),
        names if names.iter().all(|name| !name.starts_with('-')) => count(names, false),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn chosen(names: &[&str]) -> Result<Vec<&'static Case>, Box<dyn Error>> {
    if let Some(name) = names.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        return Err(format!("there is no case '{name}'\n{USAGE}").into());
    }
    Ok(CASES.iter().filter(|case| names.is_empty() || names.contains(&case.name)).collect())
}

/// A gateway in a process of its own, begun by `command`; it ends when this is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(mut command: Command, upstream: SocketAddr) -> Result<Self, Box<dyn Error>> {
        command.args(["--serve", &upstream.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| "the gateway did not start")?;
        Ok(Self { child, address })
    }

    /// Ends it and waits for its end: it goes when its input ends.
    fn end(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.child.stdin.take());
        if self.child.wait()?.success() { Ok(()) } else { Err("the gateway did not end well".into()) }
    }

    /// Processor time so far, in microseconds: user and system.
    fn processor_time(&self) -> Result<u64, Box<dyn Error>> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(nanos / 1000)
    }
}

fn native(count: &str, names: &[&str]) -> Result<(), Box<dyn Error>> {
    let count: u32 = count.parse()?;
    println!("{:<16} {:>10} {:>10}", "", "p50 µs", "CPU µs");
    for case in chosen(names)? {
        let upstream = TcpListener::bind("127.0.0.1:0")?;
        let process = Process::start(Command::new(std::env::current_exe()?), upstream.local_addr()?)?;
        let mut calls = Calls::open(process.address, upstream, case)?;
        for _ in 0..count / 10 {
            calls.one()?;
        }
        let before = process.processor_time()?;
        let mut times = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            calls.one()?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let spent = (process.processor_time()? - before) / u64::from(count);
        println!("{:<16} {:>10} {:>10}", case.name, times[times.len() / 2].as_micros(), spent);
        drop(calls);
        process.end()?;
    }
    Ok(())
}

fn reference_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/reference.json")
}

fn count(names: &[&str], write: bool) -> Result<(), Box<dyn Error>> {
    let path = reference_path();
    let mut reference: BTreeMap<String, u64> =
        fs::read(&path).ok().map(|bytes| serde_json::from_slice(&bytes)).transpose()?.unwrap_or_default();
    let mut worse = Vec::new();
    println!("{:<16} {:>12} {:>12} {:>8}", "instructions", "reference", "a call", "");
    for case in chosen(names)? {
        let [few, many] = RUNS;
        let (short, long) = (under_callgrind(case, few)?, under_callgrind(case, many)?);
        // The serving thread is the one that calls keep busy.
        let growth = long.iter().map(|(thread, total)| total.saturating_sub(short.get(thread).copied().unwrap_or(0)));
        let each = growth.max().unwrap_or(0) / u64::from(many - few);
        let known = reference.get(case.name).copied();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let change = known.map_or(0.0, |known| (each as f64 / known as f64 - 1.0) * 100.0);
        println!("{:<16} {:>12} {each:>12} {change:>+7.1}%", case.name, known.map_or_else(|| "-".to_owned(), |n| n.to_string()));
        if change > ALLOWED {
            worse.push(case.name);
        }
        if write || known.is_none() {
            reference.insert(case.name.to_owned(), each);
        }
    }
    if write {
        fs::write(path, serde_json::to_string_pretty(&reference)? + "\n")?;
    } else if !worse.is_empty() {
        let message = "more than 5 % over the reference. Find the cause with callgrind_annotate, or accept it with";
        return Err(format!("{}: {message} `--write`.", worse.join(", ")).into());
    }
    Ok(())
}

/// Instructions of each thread in a run of so many calls.
fn under_callgrind(case: &Case, count: u32) -> Result<BTreeMap<u64, u64>, Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("trunkline-instructions-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}/{}", folder.display(), case.name));
    command.arg(std::env::current_exe()?);
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let process = Process::start(command, upstream.local_addr()?)
        .map_err(|error| format!("{error} (under valgrind, which apt-get install valgrind brings)"))?;
    let mut calls = Calls::open(process.address, upstream, case)?;
    for _ in 0..count {
        calls.one()?;
    }
    drop(calls);
    process.end()?;
    let mut totals = BTreeMap::new();
    for file in fs::read_dir(&folder)? {
        let text = fs::read_to_string(file?.path())?;
        let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(thread), Some(total)) = (number("thread: "), number("totals: ")) {
            totals.insert(thread, total);
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(totals)
}
