//! What a line of the file says, in the words of the broker's configuration.

use engine::ServiceConfig;
use matching::AnyConfig;

use crate::config::Lasting;

/// A line to try: its name, and rules as in `[services."name"]`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LineFile {
    pub(super) name: String,
    pub(super) aim: Option<Lasting>,
    pub(super) give_up: Option<Lasting>,
    pub(super) queue_max: Option<usize>,
}

/// A line to try, checked.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) config: AnyConfig,
}

impl LineFile {
    /// The line that a flag describes: `NAME` or `NAME:KEY=VALUE,…`.
    pub(super) fn of_flag(text: &str) -> Result<LineFile, String> {
        let (name, rules) = text.split_once(':').unwrap_or((text, ""));
        let mut table = String::new();
        for rule in rules.split(',').filter(|rule| !rule.trim().is_empty()) {
            let (key, value) = rule
                .split_once('=')
                .ok_or_else(|| format!("{rule:?} is no rule: expected KEY=VALUE"))?;
            let (key, value) = (key.trim(), value.trim());
            let number = value.parse::<u64>().is_ok();
            let value = if number { value.to_owned() } else { format!("{value:?}") };
            table.push_str(&format!("{key:?} = {value}\n"));
        }
        let line: LineFile = toml::from_str(&table)
            .map_err(|error| error.message().replace('\n', " ").trim().to_owned())?;
        if !line.name.is_empty() {
            return Err("the name stands before the colon".into());
        }
        Ok(LineFile { name: name.trim().to_owned(), ..line })
    }

    /// The line as the broker would keep it.
    ///
    /// # Errors
    /// Says what makes no line.
    pub(super) fn settle(&self) -> Result<Line, String> {
        if self.name.is_empty() {
            return Err("a line needs a name, such as name = \"careful\"".into());
        }
        let mut rules = ServiceConfig::default();
        let spans =
            [(&mut rules.aim, self.aim, "aim"), (&mut rules.give_up, self.give_up, "give_up")];
        for (place, value, key) in spans {
            let Some(Lasting(span)) = value else { continue };
            if span <= matching::Span::ZERO {
                return Err(format!("{key} must be longer than nothing, or \"never\""));
            }
            *place = span;
        }
        // The engine bounds the line itself; here the queue does.
        let config = rules.line().with_max(self.queue_max.unwrap_or(rules.queue_max));
        Ok(Line { name: self.name.clone(), config: config.into() })
    }
}
