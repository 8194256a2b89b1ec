//! Steps as a trace that Perfetto and chrome://tracing open: "complete" events of the Trace Event Format, whose times are
//! in microseconds. The launches were timed one by one, and stand one after the other.

use serde_json::{Value, json};

use crate::commands::inspect::figures::percent;
use crate::commands::profile_file::{ProfileFile, ProfiledProgram};

/// The threads of a step.
const ALONE: u32 = 1;
const WHOLE: u32 = 2;

/// The trace: a process for each step, with a thread of launches, and one of the step as it runs.
pub fn trace(file: &ProfileFile) -> Value {
    let mut events = Vec::new();
    for (pid, step) in (1..).zip(&file.steps) {
        let name = |kind: &str, tid: u32, name: String| json!({ "ph": "M", "name": kind, "pid": pid, "tid": tid, "args": { "name": name } });
        events.push(name("process_name", 0, format!("{} on {}", step.program, file.device)));
        events.push(name("thread_name", ALONE, "launches, each alone".to_owned()));
        let whole = if step.captured { "the captured step" } else { "the step as it runs" };
        events.push(name("thread_name", WHOLE, whole.to_owned()));
        events.extend(launches(step, pid));
        events.push(json!({
            "ph": "X", "name": step.program, "cat": "step", "pid": pid, "tid": WHOLE, "ts": 0.0, "dur": step.step_us,
            "args": { "one after the other, us": step.apart_us, "context": step.context },
        }));
    }
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": { "version": file.version, "device": file.device, "plan_hash": file.plan_hash },
    })
}

fn launches(step: &ProfiledProgram, pid: u32) -> impl Iterator<Item = Value> {
    let mut start = 0.0;
    step.launches.iter().map(move |launch| {
        let ts = start;
        start += launch.us;
        json!({
            "ph": "X", "name": launch.site, "cat": launch.op, "pid": pid, "tid": ALONE, "ts": ts, "dur": launch.us,
            "args": {
                "kernel": launch.kernel,
                "bytes": launch.bytes,
                "flops": launch.flops,
                "bound, us": launch.bound_us,
                "percent of bound": percent(launch.bound_us, launch.us),
            },
        })
    })
}
