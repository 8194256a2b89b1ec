//! `bench --profile` and `inspect --profile`: a table, files for other programs, and a page.

use std::fs;

use serde_json::Value;

use crate::DEMO;
use crate::sandbox::Sandbox;

/// A plan of the demo model, and the arguments that profile it.
fn compiled(sandbox: &Sandbox) -> (String, Vec<String>) {
    let (plan, folder) = (sandbox.text("demo.plan"), sandbox.text("profile"));
    let limits = ["--max-batch-size", "2", "--max-num-tokens", "64", "--max-seq-len", "128", "--target", "cpu"];
    sandbox.ok(&[&["compile", DEMO, "-o", &plan][..], &limits].concat());
    let load = "--batch-sizes 2 1 --input-len 40 --output-len 8 --num-runs 1 --warmup-runs 0 --ceilings table";
    let load = load.split(' ').map(str::to_owned);
    let bench = ["bench", &plan].map(str::to_owned).into_iter().chain(load);
    (plan.clone(), bench.chain(["--profile".to_owned(), folder]).collect())
}

fn read(sandbox: &Sandbox, name: &str) -> String {
    fs::read_to_string(sandbox.path("profile").join(name)).unwrap()
}

/// Whether each element of a document ends, in order, and no text is markup.
fn is_well_formed(text: &str) -> bool {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        let Some((tag, after)) = tag.split_once('>') else { return false };
        if tag.contains('<') || tag.matches('"').count() % 2 != 0 {
            return false;
        }
        match tag.strip_prefix('/') {
            Some(name) if open.pop() != Some(name) => return false,
            None if !tag.ends_with('/') => open.push(tag.split_whitespace().next().unwrap_or("")),
            _ => {}
        }
        rest = after;
    }
    open.is_empty() && text.trim_end().ends_with('>')
}

#[test]
fn launches_are_timed_and_written_down() {
    let sandbox = Sandbox::new();
    let (plan, args) = compiled(&sandbox);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let table = sandbox.ok(&args);
    for part in ["decode@2: 2 tokens of 2 sequences, 44 cached tokens each, on ", "layers.*.attn.mixed", "by overlap"] {
        assert!(table.contains(part), "expected `{part}` in {table}");
    }

    let profile: Value = serde_json::from_str(&read(&sandbox, "profile.json")).unwrap();
    assert_eq!((&profile["schema_version"], &profile["runs"]), (&Value::from(1), &Value::from(20)));
    assert_eq!(profile["plan_hash"].as_str().unwrap().len(), 64);
    assert!(profile["ceilings"]["read_bytes_per_s"].as_f64().unwrap() > 0.0);
    let summary = sandbox.json(&["inspect", &plan, "--json"]);
    let steps = profile["steps"].as_array().unwrap();
    let programs: Vec<&str> = steps.iter().map(|step| step["program"].as_str().unwrap()).collect();
    assert_eq!(programs, ["mixed@64", "decode@2"]);
    for step in steps {
        let launches = step["launches"].as_array().unwrap();
        let of_plan = summary["programs"].as_array().unwrap();
        let of_plan = of_plan.iter().find(|program| program["name"] == step["program"]).unwrap();
        assert_eq!(Some(launches.len() as u64), of_plan["steps"].as_u64());
        let sum: f64 = launches.iter().map(|launch| launch["us"].as_f64().unwrap()).sum();
        assert!((sum - step["launches_us"].as_f64().unwrap()).abs() < 1e-6 * sum);
        let number = |launch: &Value, name: &str| launch[name].as_f64().unwrap();
        assert!(launches.iter().all(|launch| number(launch, "bound_us") > 0.0 && number(launch, "bytes") > 0.0));
        assert!(["apart_us", "step_us"].iter().all(|name| step[name].as_f64().unwrap() > 0.0));
    }
    // the prompt of one while the other decodes
    assert_eq!(steps[0]["symbols"], serde_json::json!({ "B": 2, "R": 2, "T": 41 }));

    let trace: Value = serde_json::from_str(&read(&sandbox, "trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let complete: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let launches: usize = steps.iter().map(|step| step["launches"].as_array().unwrap().len()).sum();
    assert_eq!(complete.len(), launches + steps.len());
    for event in &complete {
        let numbers = ["ts", "dur", "pid", "tid"].iter().all(|name| event[name].as_f64().is_some_and(|at| at >= 0.0));
        assert!(numbers && event["name"].is_string() && event["cat"].is_string(), "{event}");
    }
    // those of a thread follow each other
    for pair in complete.windows(2).filter(|pair| pair[0]["pid"] == pair[1]["pid"] && pair[0]["tid"] == pair[1]["tid"])
    {
        let number = |event: &Value, name: &str| event[name].as_f64().unwrap();
        assert!(number(pair[0], "ts") + number(pair[0], "dur") <= number(pair[1], "ts") + 1e-6, "{pair:?}");
    }
    let named = |kind: &str| events.iter().filter(|event| event["ph"] == "M" && event["name"] == kind).count();
    assert_eq!((named("process_name"), named("thread_name")), (2, 4));

    let svg = read(&sandbox, "roofline.svg");
    assert!(is_well_formed(&svg) && !is_well_formed(&svg.replace("</svg>", "")), "{svg}");
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.contains("prefers-color-scheme"));
    assert!(svg.matches("<circle").count() > 4 && svg.contains(">linear</text>"), "{svg}");
    assert_eq!(svg.matches("://").count(), 1, "nothing is loaded: {svg}");
    assert!(!svg.contains("<script") && !svg.contains("NaN") && !svg.contains("inf\""), "{svg}");

    let (page, profile) = (sandbox.text("x.html"), sandbox.text("profile/profile.json"));
    sandbox.ok(&["inspect", &plan, "--html", &page, "--profile", &profile]);
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("Measured on ") && text.contains("<th>measured<th>% of bound"), "{text}");
    assert!(is_a_refusal(&sandbox, &plan, &page, &profile));
}

/// Profiles of other plans, of other versions, and of other launches are refused.
fn is_a_refusal(sandbox: &Sandbox, plan: &str, page: &str, profile: &str) -> bool {
    let inspect = ["inspect", plan, "--html", page, "--profile", profile];
    sandbox.fails(&["inspect", plan, "--profile", profile], 2, "--html");
    sandbox.fails(&["inspect", plan, "--html", profile, "--profile", profile], 2, "profile.json");
    let good = fs::read_to_string(profile).unwrap();
    let mut value: Value = serde_json::from_str(&good).unwrap();
    for (damage, message) in [
        ("schema_version", "is no profile of version 1"),
        ("plan_hash", "is a profile of another plan, 0000"),
        ("steps", "invalid type"),
    ] {
        let kept = value[damage].take();
        value[damage] = if damage == "schema_version" { Value::from(2) } else { Value::from("0000") };
        fs::write(profile, value.to_string()).unwrap();
        sandbox.fails(&inspect, 3, message);
        value[damage] = kept;
    }
    value["steps"][0]["launches"].as_array_mut().unwrap().pop();
    fs::write(profile, value.to_string()).unwrap();
    sandbox.fails(&inspect, 3, "the launches of `mixed@64` are not those of the plan");
    fs::write(profile, "no JSON").unwrap();
    sandbox.fails(&inspect, 3, "is no profile of version 1");
    fs::write(profile, good).unwrap();
    true
}

#[cfg(unix)]
#[test]
fn a_profile_takes_the_place_of_no_input() {
    let sandbox = Sandbox::new();
    let (plan, args) = compiled(&sandbox);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fs::create_dir(sandbox.path("profile")).unwrap();
    std::os::unix::fs::symlink(&plan, sandbox.path("profile/trace.json")).unwrap();
    let before = fs::read(&plan).unwrap();
    sandbox.fails(&args, 2, "trace.json");
    assert!(fs::read(&plan).unwrap() == before);
    fs::remove_dir_all(sandbox.path("profile")).unwrap();
    fs::write(sandbox.path("profile"), "a file").unwrap();
    sandbox.fails(&args, 3, "profile");
}
