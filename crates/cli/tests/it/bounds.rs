//! The waits, reads and writes of a command are bounded, and it ends with an error if its output fails.

use std::fs::File;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::process::keyrelay;
use crate::stage::{Stage, end};

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

/// Runs a command with the given output, and returns its exit code and its standard error.
async fn to(mut command: Command, out: Stdio) -> (Option<i32>, String) {
    let child = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn an_endless_answer_is_read_up_to_a_bound() {
    const SENT_MAX: usize = 256 * 1024 * 1024;
    let stage = Stage::set().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sending = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let spaces = vec![b' '; 64 * 1024];
        let mut sent = 0;
        while sent < SENT_MAX && stream.write_all(&spaces).await.is_ok() {
            sent += spaces.len();
        }
        sent
    });
    let mut command = stage.command("status", &[]);
    command.env("KEYRELAY_URL", url);
    let said = end(command).await;
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert!(said.text.contains("it has more than 8388608 bytes"), "{}", said.text);
    assert!(sending.await.unwrap() < SENT_MAX);
}

#[tokio::test]
async fn a_hanging_command_is_killed_with_its_processes() {
    let stage = Stage::set().await;
    // Its output ends only when all its processes have ended.
    let stubborn = "cat > got; trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1000; wait";
    let arguments = ["--to", "file:secret", "--exec", stubborn];
    let said = stage.run("rotate", &[&arguments[..], &["--exec-timeout", "1s"]].concat()).await;
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert!(
        said.text.contains("has not ended within 1 s") && said.text.contains("--exec-timeout"),
        "{}",
        said.text
    );
    let (new, old) = stage.secrets().await;
    assert_eq!((stage.read("got"), stage.read("secret"), old.is_some()), (new.clone(), new, true));
    let said = stage.run("rotate", &["--to", "file:secret", "--exec", "cat > got"]).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 1), "{}", said.text);
}

#[tokio::test]
async fn a_command_that_fails_to_write_its_output_reports_an_error() {
    let stage = Stage::set().await;
    let data = stage.path("data");
    let data = data.to_str().unwrap();
    let commands: [&[&str]; 9] = [
        &["status", &stage.client],
        &["status", &stage.client, "--json"],
        &["watch", &stage.client],
        &["keys", "status", "--data-dir", data],
        &["audit", "verify", "--data-dir", data],
        &["doctor", "--data-dir", data, "--listen", "127.0.0.1:1"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ];
    let command = |arguments: &[&str]| {
        let mut command = stage.command("", &[]);
        let mut fresh = keyrelay();
        for (name, value) in command.as_std_mut().get_envs() {
            fresh.env(name, value.unwrap_or_default());
        }
        fresh.args(arguments);
        fresh
    };
    for arguments in commands {
        let (code, said) = to(command(arguments), full().into()).await;
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        if arguments != ["--help"] {
            assert!(said.contains("cannot write to standard output: "), "{arguments:?}: {said}");
        }
        // A reader that has read enough closes the pipe.
        let (code, said) = to(command(arguments), unread().into()).await;
        assert_eq!((code, &*said), (Some(0), ""), "{arguments:?}");
    }
    for error in [Stdio::from(full()), Stdio::from(unread())] {
        let mut status = command(&["status", "0198c2f0-1111-4222-8333-944455566677"]);
        assert_eq!(status.stderr(error).stdout(Stdio::null()).status().await.unwrap().code(), Some(1));
    }
    let mut wrong = command(&["no-such-command"]);
    assert_eq!(wrong.stderr(full()).status().await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_rotation_completes_although_its_output_fails() {
    let stage = Stage::set().await;
    let old = stage.read("secret");
    // It would warn that this is shorter than tokens live.
    let mut rotate = stage.command("rotate", &["--to", "file:secret", "--retire", "--wait-unused", "1s"]);
    let ended = rotate.stdout(full()).stderr(full()).status().await.unwrap();
    assert_eq!(ended.code(), Some(1));
    let (new, retiring) = stage.secrets().await;
    assert_eq!((stage.read("secret"), retiring), (new.clone(), None));
    assert_ne!(new, old);
    assert!(!stage.state_file().exists());
}
