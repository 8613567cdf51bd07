//! `[store]` and `[titanic]`: where tasks are kept, and for how long.

use std::path::Path;

use engine::Span;
use serde::de::{Deserialize, Deserializer, Error as _};
use store::Level;

use super::{Fault, Lasting, Overrides};
use crate::tasks::{Plan, StoreUrl};

/// Everything about tasks, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tasks {
    /// `None`: nobody named one, so it is a file in the data directory.
    pub(crate) url: Option<StoreUrl>,
    pub(crate) options: crate::tasks::Options,
    pub(crate) plan: Plan,
}

/// `[store]` as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    url: Option<Url>,
    level: Option<Level>,
    dead_keep: Option<Lasting>,
}

/// `[titanic]` as it is written.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenTitanic {
    enabled: Option<bool>,
    keep: Option<Lasting>,
}

#[derive(Clone, Debug)]
struct Url(StoreUrl);

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
        String::deserialize(deserializer)?.parse().map(Url).map_err(D::Error::custom)
    }
}

/// How long a Titanic reply waits for its client unless said.
const TITANIC_KEEP: Span = Span::from_secs(7 * 86_400);
/// How long dead letters are kept unless said.
const DEAD_KEEP: Span = Span::from_secs(30 * 86_400);

/// Checks all of it. Relative paths of the file are read from `base`.
pub(super) fn settings(
    written: &Written,
    titanic: &WrittenTitanic,
    base: &Path,
    overrides: &Overrides,
) -> Result<Tasks, Fault> {
    let from_file = written.url.clone().map(|Url(url)| url.rooted(base));
    let url = match &overrides.store {
        Some(text) => Some(text.parse()?),
        None => from_file,
    };
    let os_level = match written.level {
        None | Some(Level::Durable) => false,
        Some(Level::Os) => true,
        Some(Level::Memory) => {
            let expected = "must be \"durable\" or \"os\"";
            return Err(Fault::new(&["store", "level"], expected));
        }
    };
    let keep = |key: [&str; 2], span: Option<Lasting>, usual: Span| {
        let Lasting(span) = span.unwrap_or(Lasting(usual));
        let ms = u64::try_from(span.as_millis()).unwrap_or(0).min(store::limits::SPAN_MS);
        match ms {
            0 => Err(Fault::new(&key, "must be longer than nothing, or \"never\"")),
            ms => Ok(ms),
        }
    };
    let settings = store::Settings {
        dead_keep_ms: keep(["store", "dead_keep"], written.dead_keep, DEAD_KEEP)?,
        ..store::Settings::default()
    };
    Ok(Tasks {
        url,
        options: crate::tasks::Options { settings, os_level },
        plan: Plan {
            titanic: titanic.enabled.unwrap_or(true),
            titanic_keep_ms: keep(["titanic", "keep"], titanic.keep, TITANIC_KEEP)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn bad_stores_are_refused_with_line_and_advice() {
        let cases = [
            ("[store]\nurl = \"sqlite:tasks.db\"\nlevel = \"os\"", "accepted"),
            ("[store]\nurl = \"off\"\n[titanic]\nenabled = false\nkeep = \"1h\"", "accepted"),
            ("[store]\nurl = \"postgres://db/tasks\"\ndead_keep = \"never\"", "accepted"),
            ("[store]\nurl = \"tasks.db\"", "m.toml:2: \"tasks.db\" is no store: expected sqlite"),
            ("[store]\nurl = \"off\"\nlevel = \"memory\"", "m.toml:3: store.level must be"),
            ("[store]\nlevel = \"sometimes\"", "m.toml:2: unknown variant `sometimes`"),
            ("[store]\ndead_keep = \"0s\"", "m.toml:2: store.dead_keep must be longer"),
            ("[titanic]\n\nkeep = \"0s\"", "m.toml:3: titanic.keep must be longer"),
            ("[store]\npath = \"x\"", "m.toml:2: unknown field `path`"),
        ];
        for (text, expected) in cases {
            let got = match read("m.toml", text, Path::new("."), &Overrides::default()) {
                Ok(_) => "accepted".into(),
                Err(error) => error.to_string(),
            };
            assert!(got.starts_with(expected), "{text:?}\n  gave {got:?}\n  not  {expected:?}");
        }
    }

    #[test]
    fn flags_override_and_paths_are_the_files() {
        let text = "[store]\nurl = \"sqlite:tasks.db\"";
        let base = Path::new("/etc/maitred");
        let file = read("m.toml", text, base, &Overrides::default()).expect("a good file");
        let url = StoreUrl::Sqlite("/etc/maitred/tasks.db".into());
        assert_eq!(file.tasks.url, Some(url));
        let overrides = Overrides { store: Some("off".into()), ..Overrides::default() };
        let flag = read("m.toml", text, base, &overrides).expect("a good flag");
        assert_eq!(flag.tasks.url, Some(StoreUrl::Off));
    }
}
