//! A worker that is played by a test: its side of the pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use w2a_serve::codec::{Dialect, Value, decode, encode};

/// Answers every order with what `obey` makes of it, until the other side leaves. Images are of `size` pixels a side.
pub fn play(pictures: &Path, size: usize, mut obey: impl FnMut(&Value, &File) -> Value<'static>) {
    let (mut source, mut sink) = (std::io::stdin(), std::io::stdout());
    let pictures = File::options().write(true).open(pictures).unwrap();
    loop {
        let mut length = [0; 4];
        if source.read_exact(&mut length).is_err() {
            return;
        }
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        source.read_exact(&mut body).unwrap();
        let message = decode(&body, Dialect::Openpi).unwrap();
        let names = |names: &[&'static str]| Value::List(names.iter().map(|name| Value::text(name)).collect());
        let answer = match message.get("orders") {
            None => Value::map([
                ("cameras", names(&["image", "wrist_image"])),
                ("size", Value::List(vec![Value::Int(size as i64); 2])),
                ("state", names(&["x", "y", "z", "roll", "pitch", "yaw", "left", "right"])),
                ("action", names(&["x", "y", "z", "roll", "pitch", "yaw", "gripper"])),
                ("versions", Value::map([("played", Value::text("1"))])),
            ]),
            Some(Value::List(orders)) => {
                let answers = orders.iter().map(|order| obey(order, &pictures)).collect();
                Value::map([("answers", Value::List(answers))])
            }
            other => panic!("{other:?}"),
        };
        let mut body = Vec::new();
        encode(&answer, Dialect::Openpi, &mut body).unwrap();
        sink.write_all(&[&(body.len() as u32).to_le_bytes()[..], &body].concat()).unwrap();
        sink.flush().unwrap();
    }
}

/// A whole number of an order.
pub fn number(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => *number,
        other => panic!("{other:?}"),
    }
}

/// Runs the tests whose names contain the first argument, as the usual harness does.
pub fn run(tests: &[(&str, fn())]) {
    let filter = std::env::args().nth(1).filter(|name| !name.starts_with('-')).unwrap_or_default();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&filter)) {
        test();
        eprintln!("test {name} ... ok");
    }
}
