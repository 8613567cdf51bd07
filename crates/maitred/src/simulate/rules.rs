//! What a line of the file says, in the words of the broker's configuration.

use engine::ServiceConfig;
use serde::Deserialize as _;
use toml::{Table, Value};

use crate::config::{Rules, rules_alone};

/// Keys of a service that have no part in who waits how long here.
const LEFT_OUT: [&str; 8] = [
    "alarm",
    "answer_refusals",
    "execution_limit",
    "max_deliveries",
    "protect",
    "queue_bytes",
    "valve",
    "workers",
];

/// A line to try: its name, and rules as in `[services."name"]`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(try_from = "Table")]
pub(super) struct LineFile {
    name: String,
    rules: Rules,
}

/// A line to try, checked.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) config: ServiceConfig,
}

impl TryFrom<Table> for LineFile {
    type Error = String;

    fn try_from(mut table: Table) -> Result<LineFile, String> {
        let name = match table.remove("name") {
            Some(Value::String(name)) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => return Err("a line needs a name, such as name = \"careful\"".into()),
        };
        if let Some(key) = LEFT_OUT.iter().find(|key| table.contains_key(**key)) {
            return Err(format!("{key} is not simulated: leave it out here"));
        }
        if table.get("fair").and_then(Value::as_str) == Some("class") {
            return Err("fair = \"class\" is not simulated: clients have no class here".into());
        }
        let rules = Rules::deserialize(table)
            .map_err(|error| error.message().replace('\n', " ").trim().to_owned())?;
        Ok(LineFile { name, rules })
    }
}

impl LineFile {
    /// The line that a flag describes: `NAME` or `NAME:KEY=VALUE,…`.
    pub(super) fn of_flag(text: &str) -> Result<LineFile, String> {
        let (name, rules) = text.split_once(':').unwrap_or((text, ""));
        let mut table = Table::new();
        table.insert("name".into(), name.into());
        for rule in rules.split(',').filter(|rule| !rule.trim().is_empty()) {
            let (key, value) = rule
                .split_once('=')
                .ok_or_else(|| format!("{rule:?} is no rule: expected KEY=VALUE"))?;
            let (key, value) = (key.trim(), value.trim());
            let value = value.parse::<i64>().map_or_else(|_| value.into(), Value::Integer);
            if table.insert(key.into(), value).is_some() {
                return Err(format!("{key} is said twice"));
            }
        }
        LineFile::try_from(table)
    }

    /// The line as the broker would keep it.
    ///
    /// # Errors
    /// Says what makes no line.
    pub(super) fn settle(&self) -> Result<Line, String> {
        Ok(Line { name: self.name.clone(), config: rules_alone(&self.rules)? })
    }
}
