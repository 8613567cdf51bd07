//! What the Haskell library writes is read, and written again byte for byte.

use super::*;

#[test]
fn frames_of_the_haskell_library_are_written_again_byte_for_byte() {
    let text = include_str!("../../testdata/haskell_client_frames.json");
    let frames: Vec<String> = serde_json::from_str(text).unwrap();
    assert!(frames.len() > 100);
    for frame in frames {
        let bytes: Vec<u8> = frame.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let read = match frame.starts_with("CONNECT") {
            true => opening(&bytes).frames.remove(0),
            false => at(Version::V1_2, &bytes).frames.remove(0),
        };
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, Version::V1_2, read.command);
        for (name, value) in &read.headers {
            writer = match name.as_str() {
                "content-length" => writer.content_length(value.parse().unwrap()),
                _ => writer.header(name, value),
            };
        }
        writer.body(&read.body).unwrap();
        assert_eq!(out, bytes, "{frame:?}");
    }
}
