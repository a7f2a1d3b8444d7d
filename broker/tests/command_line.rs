//! `meridian` as a person or a script calls it, on the real binary.

mod support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::pty;
use rustix::termios;
use serde_json::{Value, json};
use support::Broker;

const MERIDIAN: &str = env!("CARGO_BIN_EXE_meridian");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(MERIDIAN).args(arguments).output().unwrap()
}

/// With `input` on standard input.
fn run_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(MERIDIAN)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn port(broker: &Broker) -> String {
    broker.mqtt.to_string()
}

fn api(broker: &Broker) -> String {
    format!("http://127.0.0.1:{}", broker.http)
}

/// Starts `meridian sub`, and waits until the broker knows its subscription.
fn subscriber(broker: &Broker, arguments: &[&str]) -> Child {
    let mut child = Command::new(MERIDIAN)
        .args(["sub", "-i", "subscriber", "-W", "60"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let clients = broker.get("clients");
        let mut clients = clients["data"].as_array().unwrap().iter();
        let there = clients.any(|client| {
            client["client_id"] == "subscriber" && client["subscriptions"] != json!([])
        });
        if there {
            return child;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("the subscriber did not subscribe in time");
}

#[test]
fn what_strangers_chose_cannot_write_to_the_terminal() {
    let broker = Broker::start("");
    let port = port(&broker);
    let hostile = "evil\u{1b}]0;owned\u{7}\nERROR forged\u{202e}";
    let id = "c\u{9b}31m\u{202e}";
    let mut stay = Command::new(MERIDIAN)
        .args(["sub", "-p", &port, "-i", id, "-t", "x", "-W", "60"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let fence = json!({"type": "Feature", "id": "f\u{1b}[2J", "properties": {"radius_m": 500, "name": hostile},
        "geometry": {"type": "Point", "coordinates": [24.94, 60.17]}});
    let put = run_with(
        &["fence", "put", "-", "--api", &api(&broker)],
        fence.to_string().as_bytes(),
    );
    assert!(put.status.success(), "{}", text(&put.stderr));
    let deadline = Instant::now() + Duration::from_secs(60);
    while broker.get("clients")["data"] == json!([]) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let fenced = "f\u{1b}[2J";
    let mut outputs = vec![put];
    for arguments in [
        vec!["fence", "list"],
        vec!["fence", "get", fenced],
        vec!["client", "list"],
        vec!["client", "kick", "no\u{1b}[2Jbody"],
        vec!["position", "get", "no\u{1b}[2Jbody"],
    ] {
        outputs.push(run(&[&arguments[..], &["--api", &api(&broker)]].concat()));
    }
    let mut subscriber = subscriber(&broker, &["-p", &port, "-t", "t/#", "-v", "-C", "1"]);
    let sent = run(&[
        "pub",
        "-p",
        &port,
        "-t",
        "t/a\u{1b}[2J\u{202e}",
        "-m",
        "raw\u{1b}",
    ]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let mut line = String::new();
    subscriber
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut line)
        .unwrap();
    assert_eq!(
        line, "t/a\\x1b[2J\\u{202e} raw\u{1b}\n",
        "the topic is escaped, the payload as it came"
    );
    assert!(subscriber.wait().unwrap().success());
    for output in &outputs {
        for shown in [text(&output.stdout), text(&output.stderr)] {
            let hidden = shown.chars().find(|c| {
                c.is_control() && !matches!(c, '\n' | '\t') || *c == '\u{202e}' || *c == '\u{9b}'
            });
            assert_eq!(hidden, None, "{shown:?}");
            assert!(!shown.contains("\nERROR"), "{shown:?}");
        }
    }
    assert!(text(&outputs[1].stdout).contains("\\x1b]0;owned\\x07\\nERROR forged\\u{202e}"));
    let list = run(&["fence", "list", "--json", "--api", &api(&broker)]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(
        list["features"][0]["properties"]["name"], hostile,
        "JSON says what is"
    );
    let got: Value = serde_json::from_slice(&outputs[2].stdout).unwrap();
    assert_eq!(
        got["properties"]["name"], hostile,
        "and so does what is shown of it"
    );
    stay.kill().unwrap();
    stay.wait().unwrap();
}

#[test]
fn a_password_is_taken_from_standard_input_and_an_empty_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    let file = file.to_str().unwrap();
    let add = |input: &[u8]| run_with(&["user", "add", "ann", "--file", file], input);
    for empty in [&b""[..], b"\n", b"\r\n"] {
        let output = add(empty);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("an empty password is refused"));
        assert!(!std::path::Path::new(file).exists());
    }
    let output = add(b"s3cret\n");
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && !text(&output.stderr).contains("s3cret"));
    let users = std::fs::read_to_string(file).unwrap();
    assert!(
        users.contains("$argon2id$") && !users.contains("s3cret"),
        "{users}"
    );
    let broker = Broker::start(&format!(
        "[auth]\nallow_anonymous = false\nusers_file = {file:?}\n"
    ));
    let publish = |password| {
        run(&[
            "pub",
            "-p",
            &port(&broker),
            "-u",
            "ann",
            "-P",
            password,
            "-t",
            "a",
            "-n",
        ])
        .status
        .code()
    };
    assert_eq!(
        (publish("s3cret"), publish("S3cret"), publish("")),
        (Some(0), Some(1), Some(1))
    );
}

/// Reads from the terminal until `wanted` has come, and echo is off.
fn read_prompt(terminal: &mut File, seen: &mut String, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut chunk = [0; 256];
    while !seen.ends_with(wanted) && Instant::now() < deadline {
        let count = terminal.read(&mut chunk).unwrap();
        seen.push_str(&text(&chunk[..count]));
    }
    assert!(seen.ends_with(wanted), "{seen:?}");
    let echoes = |terminal: &File| {
        let modes = termios::tcgetattr(terminal.as_fd()).unwrap().local_modes;
        modes.contains(termios::LocalModes::ECHO)
    };
    while echoes(terminal) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!echoes(terminal), "a password would be shown");
}

#[test]
fn on_a_terminal_a_password_is_asked_for_twice_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    for (second, right) in [("s3cret", true), ("s3cret2", false)] {
        let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
        pty::grantpt(&master).unwrap();
        pty::unlockpt(&master).unwrap();
        let name = pty::ptsname(&master, Vec::new()).unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(name.to_str().unwrap())
                .unwrap()
        };
        // setsid gives the new session the terminal that is its standard input.
        let mut child = Command::new("setsid")
            .args(["--ctty", "--wait", MERIDIAN, "user", "add", "ann", "--file"])
            .arg(&file)
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let mut terminal = File::from(master);
        let mut seen = String::new();
        read_prompt(&mut terminal, &mut seen, "password: ");
        terminal.write_all(b"s3cret\n").unwrap();
        read_prompt(&mut terminal, &mut seen, "once more: ");
        terminal
            .write_all(format!("{second}\n").as_bytes())
            .unwrap();
        assert_eq!(child.wait().unwrap().success(), right);
        // All that was written is in the terminal's buffer; its end is an error, once nobody has it open.
        let mut chunk = [0; 256];
        while let Ok(count @ 1..) = terminal.read(&mut chunk) {
            seen.push_str(&text(&chunk[..count]));
        }
        assert!(!seen.contains("s3cret"), "{seen:?}");
        assert_eq!(
            seen.contains("the two passwords differ"),
            !right,
            "{seen:?}"
        );
        assert_eq!(file.exists(), right);
        if right {
            std::fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn sub_leaves_after_its_count_with_0_and_after_its_time_with_27() {
    let broker = Broker::start("");
    let port = port(&broker);
    let begun = Instant::now();
    let output = run(&["sub", "-p", &port, "-t", "nothing", "-W", "1"]);
    assert_eq!(output.status.code(), Some(27), "{}", text(&output.stderr));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let subscriber = subscriber(&broker, &["-p", &port, "-t", "a", "-C", "2"]);
    for payload in ["1", "2", "3"] {
        assert!(
            run(&["pub", "-p", &port, "-t", "a", "-m", payload, "-q", "1"])
                .status
                .success()
        );
    }
    let output = subscriber.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "1\n2\n".to_owned())
    );
    let output = run(&["sub", "-p", &port, "-t", "a", "-F", "%z"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("%z is no format"));
}

#[test]
fn pub_takes_its_payload_from_an_argument_a_file_or_standard_input() {
    let broker = Broker::start("");
    let port = port(&broker);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload");
    std::fs::write(&file, b"\xffof a file\n").unwrap();
    let subscriber = subscriber(
        &broker,
        &[
            "-p", &port, "-t", "a", "-q", "2", "-C", "6", "-F", "%q %l %x",
        ],
    );
    let publish = |arguments: &[&str], input: &[u8]| {
        let output = run_with(
            &[&["pub", "-p", &port, "-t", "a"], arguments].concat(),
            input,
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    publish(&["-m", "hi"], b"");
    publish(&["-f", file.to_str().unwrap(), "-q", "1"], b"");
    publish(&["-s", "-q", "2"], b"two\nlines\n");
    publish(&["-l", "-q", "1"], b"one\n\xfe\n");
    publish(&["-n"], b"");
    let output = subscriber.wait_with_output().unwrap();
    assert_eq!(
        text(&output.stdout),
        "0 2 6869\n1 11 ff6f6620612066696c650a\n2 10 74776f0a6c696e65730a\n1 3 6f6e65\n1 1 fe\n0 0 \n"
    );
    for wrong in [
        &["pub", "-t", "a"][..],
        &["pub", "-t", "a", "-m", "x", "-n"],
    ] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn pub_and_sub_speak_over_websocket_and_tls_and_check_whom_a_certificate_is_for() {
    let (_folder, cert, key) = support::certificate(Duration::from_secs(86_400));
    let ports = [(); 3].map(|()| support::free_port());
    let [ws, tls, wss] = ports;
    let broker = Broker::start(&format!(
        "[listeners.ws]\nbind = \"127.0.0.1:{ws}\"\n\
         [listeners.tls]\nbind = \"127.0.0.1:{tls}\"\ncert = {cert:?}\nkey = {key:?}\n\
         [listeners.wss]\nbind = \"127.0.0.1:{wss}\"\ncert = {cert:?}\nkey = {key:?}\n"
    ));
    let ca = cert.to_str().unwrap();
    let [ws, tls, wss] = ports.map(|port| port.to_string());
    let ways: [&[&str]; 4] = [
        &["-p", &ws, "--ws"],
        &["-p", &tls, "-h", "localhost", "--cafile", ca],
        &["-p", &wss, "-h", "localhost", "--cafile", ca, "--ws"],
        &["-p", &tls, "--cafile", ca, "--insecure"],
    ];
    for way in ways {
        let child = subscriber(&broker, &[way, &["-t", "a", "-C", "1"]].concat());
        let sent = run(&[&["pub"], way, &["-t", "a", "-m", "hello", "-q", "1"]].concat());
        assert!(sent.status.success(), "{way:?}: {}", text(&sent.stderr));
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            text(&output.stdout),
            "hello\n",
            "{way:?}: {}",
            text(&output.stderr)
        );
    }
    let another_host = run(&["pub", "-p", &tls, "--cafile", ca, "-t", "a", "-n"]);
    assert_eq!(another_host.status.code(), Some(1));
    let (_folder, stranger, _) = support::certificate(Duration::from_secs(86_400));
    let stranger = stranger.to_str().unwrap();
    let unknown = run(&[
        "pub",
        "-p",
        &tls,
        "--cafile",
        stranger,
        "--insecure",
        "-t",
        "a",
        "-n",
    ]);
    assert_eq!(
        unknown.status.code(),
        Some(1),
        "the signer is checked all the same"
    );
}

#[test]
fn the_cluster_its_nodes_and_its_shards_are_shown() {
    let broker = Broker::start("[sharding]\nregions = [\"hel\"]\ndefault_shards = 2\n");
    let show = |arguments: &[&str]| {
        let output = run(&[arguments, &["--api", &api(&broker)]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let status: Value = serde_json::from_str(&show(&["cluster", "status", "--json"])).unwrap();
    assert_eq!(status["nodes"][0]["id"], 1);
    let shards = status["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    assert!(
        shards
            .iter()
            .all(|shard| shard["leader"] == 1 && shard["applied_index"].is_u64())
    );
    let nodes: Value = serde_json::from_str(&show(&["node", "list", "--json"])).unwrap();
    assert_eq!(nodes["data"].as_array().unwrap().len(), 1);
    let list: Value = serde_json::from_str(&show(&["shard", "list", "--json"])).unwrap();
    assert_eq!(list["data"].as_array().unwrap().len(), 3);
    let shown = show(&["cluster", "status"]);
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some("1 nodes, 1 up; 3 shards"), "{shown}");
    assert!(!shown.contains('!'), "nothing is wrong: {shown}");
    let hel = lines.find(|line| line.starts_with("hel "));
    let words = hel.map(|line| line.split_whitespace().nth(1));
    assert_eq!(words, Some(Some("1")), "{shown}");
    assert_eq!(show(&["node", "list"]).lines().count(), 2);
    assert_eq!(show(&["shard", "list"]).lines().count(), 4);
}
