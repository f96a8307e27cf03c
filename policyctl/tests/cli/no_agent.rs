//! No agent, no permission, no socket: each its own sentence, exit code 2.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use crate::agent::Answers;
use crate::ctl::{command, run};

#[test]
fn says_how_to_start_an_agent() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("none.sock");
    for arguments in [
        &["status"][..],
        &["get"],
        &["endpoints"],
        &["observe"],
        &["generate"],
        &["explain", "a", "b", "80/tcp"],
    ] {
        let run = run(&socket, arguments);
        assert_eq!(run.code, 2, "{run:?}");
        assert_eq!(run.out, "");
        assert_eq!(
            run.err,
            format!(
                "error: no agent answers on {}: No such file or directory (os error 2); start one \
                 with `systemctl start palisade` or `policy-agent run`, or name its socket with \
                 --socket\n",
                socket.display()
            )
        );
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_no_agent() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("stale.sock");
    drop(UnixListener::bind(&socket).expect("bind"));
    let run = run(&socket, &["status"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("no agent answers on"), "{run:?}");
    assert!(run.err.contains("systemctl start palisade"), "{run:?}");
}

#[test]
fn a_file_is_not_a_socket() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let run = run(file.path(), &["status"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("is not a socket"), "{run:?}");
}

#[test]
fn permission_has_its_own_sentence() {
    let agent = Answers::default().start();
    let mode = std::fs::Permissions::from_mode;
    std::fs::set_permissions(agent.socket(), mode(0o600)).expect("chmod");
    let directory = agent.socket().parent().expect("parent");
    std::fs::set_permissions(directory, mode(0o755)).expect("chmod");
    let mut command = command(agent.socket());
    command.arg("status");
    // Permissions do not stop root, so that root has to become somebody else; others own the
    // socket and have to lose their own right to it.
    if is_root() {
        // Not to depend on whether `nobody` may enter the build directory.
        let binary = directory.join("policyctl");
        std::fs::copy(env!("CARGO_BIN_EXE_policyctl"), &binary).expect("copy");
        let mut copied = std::process::Command::new(binary);
        copied.arg("status").env("PALISADE_SOCKET", agent.socket()).uid(65534).gid(65534);
        command = copied;
    } else {
        std::fs::set_permissions(agent.socket(), mode(0o000)).expect("chmod");
    }
    let output = command.output().expect("run");
    let err = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert_eq!(
        err,
        format!(
            "error: permission denied on {}: run policyctl as root (sudo), or as a member of the \
             group that owns the socket\n",
            agent.socket().display()
        )
    );
    assert_eq!(agent.seen(), []);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("procfs").uid() == 0
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("silent.sock");
    let _silent = UnixListener::bind(&socket).expect("bind");
    let run = run(&socket, &["status", "--timeout", "1"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("has not answered for 1 s"), "{run:?}");
}

#[test]
fn what_is_no_agent_is_told_apart() {
    for (status, body) in [(500, "boom"), (200, "<html>"), (200, "{}"), (502, "")] {
        let agent = Answers::default().text("GET /v1/status", status, body).start();
        let run = run(agent.socket(), &["status"]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.err.contains("does not speak like an agent of this version"), "{run:?}");
        assert!(run.err.contains(body), "{run:?}");
    }
}

/// Something that says `answer` to the first that connects, whatever it is asked, and goes.
fn says(answer: &'static [u8]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
    let directory = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(directory.path().join("agent.sock")).expect("bind");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("read");
        assert!(request[..read].starts_with(b"GET /v1/"), "a request");
        stream.write_all(answer).expect("write");
    });
    (directory, thread)
}

#[test]
fn a_connection_that_breaks_is_told() {
    for (answer, command, expected) in [
        (&b""[..], "status", "the connection to the agent broke"),
        (b"SSH-2.0-OpenSSH\r\n", "status", "does not speak like an agent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "status", "the connection to the agent"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "observe",
            "the connection to the agent",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n", "observe", "does not speak"),
    ] {
        let (directory, thread) = says(answer);
        let run = run(&directory.path().join("agent.sock"), &[command]);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{run:?}");
        assert!(run.err.contains(expected), "{expected}: {run:?}");
        thread.join().expect("listener");
    }
}

#[test]
fn version_and_completion_need_no_agent() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("none.sock");
    let version = run(&socket, &["version", "--client"]);
    assert_eq!(version.code, 0, "{version:?}");
    assert_eq!(version.out, format!("policyctl {}\n", env!("CARGO_PKG_VERSION")));
    let both = run(&socket, &["version"]);
    assert_eq!((both.code, &both.out), (2, &version.out), "{both:?}");
    assert!(both.err.contains("no agent answers"), "{both:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&socket, &["completion", shell]);
        assert_eq!(script.code, 0, "{shell}: {}", script.err);
        assert!(script.out.contains("endpoints"), "{shell}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nobody() {
    let agent = Answers::default().start();
    for (arguments, expected) in [
        (&[][..], "Usage: policyctl"),
        (&["aply"], "unrecognized subcommand 'aply'"),
        (&["apply"], "apply what? Write `policyctl apply -f FILE`"),
        (&["apply", "-f", "-", "-f", "-"], "only once"),
        (&["validate"], "validate what? Write `policyctl validate -f FILE`"),
        (&["validate", "-", "-f", "-"], "only once"),
        (&["explain", "a", "b", "80/tcp", "-f", "-", "--endpoints", "-"], "only once"),
        (&["explain", "a", "b", "80/tcp", "--host-access", "allow"], "need --endpoints FILE or"),
        (&["delete"], "or `policyctl delete KIND NAME`"),
        (&["delete", "gnp"], "name the resource, as in `policyctl delete gnp NAME`"),
        (&["delete", "netpol/shop/web"], "say the namespace with --namespace"),
        (&["delete", "all", "x"], "`all` is no kind to delete"),
        (&["delete", "gnp", "x", "-f", "a.yaml"], "cannot be used with"),
        (&["delete", "gnp", "x", "-n", "shop"], "a GlobalNetworkPolicy has no namespace"),
        (&["delete", "gnp/x", "y"], "write every resource as KIND/NAME"),
        (&["delete", "gnp", "x/y"], "is no name"),
        (&["delete", "gnp/"], "no name given"),
        (&["get", "pods"], "unknown kind `pods`: expected netpol, gnp"),
        (&["get", "all", "x"], "name its kind too"),
        (&["get", "ns", "-n", "shop"], "a Namespace has no namespace"),
        (&["get", "netpol/a", "gnp/b"], "get one kind at a time"),
        (&["get", "-A", "-n", "shop"], "cannot be used with"),
        (&["describe"], "<KIND NAME>..."),
        (&["describe", "gnp"], "name it, as in `policyctl describe gnp NAME`"),
        (&["describe", "web"], "unknown kind `web`"),
        (&["describe", "all", "x"], "`all` is no kind to describe"),
        (&["describe", "pod", "x"], "unknown kind `pod`"),
        (&["describe", "gnp", "x", "-n", "shop"], "a GlobalNetworkPolicy has no namespace"),
        (&["describe", "gnp/x", "y"], "write everything as KIND/NAME"),
        (&["explain", "a", "b"], "<PORT/PROTO>"),
        (&["explain", "a", "b", "80"], "`80` says no protocol: write `80/tcp` or `80/udp`"),
        (&["explain", "a", "b", "0/tcp"], "port `0`: expected a number from 1 to 65535"),
        (&["explain", "a", "b", "70000/tcp"], "port `70000`: expected a number from 1 to 65535"),
        (&["explain", "a", "b", "icmp:300"], "type `300` is not a number from 0 to 255"),
        (&["status", "--timeout", "0"], "whole number of seconds"),
        (&["observe", "--last", "-1"], "unexpected argument '-1'"),
    ] {
        let run = run(agent.socket(), arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {run:?}");
        assert!(run.err.contains(expected), "{arguments:?}: {run:?}");
        assert_eq!(run.out, "", "{arguments:?}");
    }
    assert_eq!(agent.seen(), []);
}
