//! Receivers with endless answers: the server reads a bounded part, and the owner of the webhook sees the reason.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::app::TestApp;
use crate::webhooks::Receiver;

/// A receiver that sends informational responses until the other side closes, to each that connects.
async fn flood() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).await.is_err() {
                    break;
                }
            }
            while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await.is_ok() {}
        }
    });
    url
}

#[tokio::test]
async fn a_receiver_that_answers_103_for_ever_fails_by_a_bound_and_holds_up_nobody() {
    let (test, mut receiver, url) = (TestApp::start().await, Receiver::open().await, flood().await);
    let path = format!("admin/projects/{}/webhooks", test.project);
    for url in [&url, &receiver.url] {
        test.request(&test.admin, Method::POST, &path).json(&json!({ "url": url })).send().await.expect(201);
    }
    let client = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    receiver.next().await;
    let problem = loop {
        let shown = test.request(&test.admin, Method::GET, &path).send().await.expect(200).json();
        let webhooks: Vec<&Value> = shown["webhooks"].as_array().unwrap().iter().collect();
        let failed = webhooks.iter().find_map(|webhook| webhook["lastFailure"]["problem"].as_str());
        if let Some(problem) = failed {
            break problem.to_owned();
        }
        tokio::task::yield_now().await;
    };
    assert!(problem.contains("bytes before the end of its answer"), "{problem}");
}
