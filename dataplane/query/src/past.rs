//! Reading the past: which state a query, or one table of it, is of.
//!
//! A state is asked for by its number or by a time, in the call or after the name of a table:
//!
//! ```text
//! t FOR SYSTEM_VERSION AS OF 12        t FOR VERSION AS OF 12        t VERSION AS OF 12
//! t FOR SYSTEM_TIME AS OF '2026-11-21T10:00:00Z'     (or TIMESTAMP in the place of SYSTEM_TIME)
//! ```
//! The parser knows none of it in the dialect we use. Before it sees the text the words are taken out and
//! the name becomes one that no table can have, because of the slashes: `"t/version/12"`. From there on it
//! is a name like another; what it stands for is read from it ([`of_name`]).

use std::ops::ControlFlow;
use std::str::FromStr as _;

use arrow_array::TimestampMillisecondArray;
use arrow_array::timezone::Tz;
use arrow_cast::display::array_value_to_string;
use arrow_cast::parse::string_to_datetime;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, VisitMut as _, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use flightcluster_catalog::{AsOf as State, Catalog, SnapshotId, TableName};

use crate::{Error, Location};

/// Between a name and the state, and what a state is named by.
const VERSION: &str = "/version/";
const TIME: &str = "/time/";

const NANOS_PER_MILLI: i64 = 1_000_000;

/// A state of the catalog that can be read, and the moment it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Past {
    /// The state.
    pub snapshot: SnapshotId,
    /// Rows that were expired then are not seen, milliseconds since the Unix epoch: the time that was
    /// asked for, or when the state was made.
    pub at_millis: i64,
}

/// Which past a query is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AsOf {
    /// One that is to be looked up.
    Asked(State),
    /// One that was looked up before, as a ticket carries it.
    Known(Past),
}

impl AsOf {
    /// Reads what a caller asks for: the number of a snapshot, or a time such as
    /// `2026-11-21T10:00:00Z`; UTC when it does not say.
    ///
    /// # Errors
    /// [`Error::AsOf`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = text.parse().map_err(|_| Error::AsOf {
                problem: format!("{text} is no snapshot: the number is too large"),
            })?;
            return Ok(Self::Asked(State::Snapshot(SnapshotId(id))));
        }
        Ok(Self::Asked(State::Millis(millis(text)?)))
    }

    /// Looks the state up.
    pub(crate) async fn resolve(self, catalog: &dyn Catalog) -> Result<Past, Error> {
        let state = match self {
            Self::Known(past) => return Ok(past),
            Self::Asked(state) => state,
        };
        let found = catalog.resolve_as_of(state).await;
        let found = found.map_err(|source| Error::from_catalog("looking a snapshot up", source))?;
        Ok(Past {
            snapshot: found.snapshot,
            at_millis: match state {
                State::Snapshot(_) => found.created_at_millis,
                State::Millis(millis) => millis,
            },
        })
    }
}

impl Past {
    pub(crate) fn nanos(self) -> i64 {
        self.at_millis.saturating_mul(NANOS_PER_MILLI)
    }
}

fn millis(text: &str) -> Result<i64, Error> {
    let utc = Tz::from_str("+00:00");
    match utc.and_then(|utc| string_to_datetime(&utc, text)) {
        Ok(time) => Ok(time.timestamp_millis()),
        Err(_) => Err(Error::AsOf {
            problem: format!(
                "{text:?} is neither the number of a snapshot nor a time such as 2026-11-21T10:00:00Z"
            ),
        }),
    }
}

/// A moment as people read it; `millis` since the Unix epoch.
#[must_use]
pub fn time_text(millis: i64) -> String {
    let value = TimestampMillisecondArray::from(vec![millis]).with_timezone("+00:00");
    match array_value_to_string(&value, 0) {
        Ok(text) => text,
        Err(_) => format!("{millis} ms"),
    }
}

/// The table and the state that a name stands for, if it is of the past.
pub(crate) fn of_name(name: &TableName) -> Option<(TableName, AsOf)> {
    let (table, state) = match name.table.rsplit_once(VERSION) {
        Some((table, id)) => (table, State::Snapshot(SnapshotId(id.parse().ok()?))),
        None => {
            let (table, millis) = name.table.rsplit_once(TIME)?;
            (table, State::Millis(millis.parse().ok()?))
        }
    };
    let table = TableName {
        table: table.to_owned(),
        ..name.clone()
    };
    Some((table, AsOf::Asked(state)))
}

/// Refuses a table that is to be changed and is of the past.
pub(crate) fn check_target(target: Option<&TableName>, label: &str) -> Result<(), Error> {
    match target.and_then(of_name) {
        None => Ok(()),
        Some(_) => Err(Error::AsOf {
            problem: format!(
                "{label} can't change the past; leave it out of the table that is changed"
            ),
        }),
    }
}

/// Takes `AS OF` out of a text and puts it into the names of the tables; returns how many there were.
///
/// # Errors
/// [`Error::Syntax`], [`Error::AsOf`].
pub(crate) fn into_names(tokens: &mut Vec<TokenWithSpan>) -> Result<usize, Error> {
    let mut clauses = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match Clause::at(tokens, at)? {
            Some(clause) => {
                at = clause.end;
                clauses.push(clause);
            }
            None => at += 1,
        }
    }
    for clause in &clauses {
        let Token::Word(name) = &mut tokens[clause.name].token else {
            return Err(misplaced(Some(clause.location)));
        };
        let table = match name.quote_style {
            Some(_) => name.value.clone(),
            None => name.value.to_ascii_lowercase(),
        };
        *name = Word {
            value: format!("{table}{}", clause.state),
            quote_style: Some('"'),
            keyword: Keyword::NoKeyword,
        };
    }
    let count = clauses.len();
    let mut out = clauses
        .into_iter()
        .map(|clause| clause.name + 1..clause.end)
        .peekable();
    let mut place = 0;
    tokens.retain(|_| {
        let this = place;
        place += 1;
        while out.next_if(|range| range.end <= this).is_some() {}
        !out.peek().is_some_and(|range| range.contains(&this))
    });
    Ok(count)
}

/// An `AS OF` with all that belongs to it, as places of tokens.
struct Clause {
    /// The last part of the name before it.
    name: usize,
    /// The first token after it.
    end: usize,
    /// What it adds to the name.
    state: String,
    location: Location,
}

impl Clause {
    /// The clause whose first word is at this place. What follows is looked at only where a word fits, or
    /// a long text would be walked once for each of its tokens.
    fn at(tokens: &[TokenWithSpan], at: usize) -> Result<Option<Self>, Error> {
        let with_for = is_word(tokens, at, &["FOR"]);
        let Some(kind) = (if with_for { next(tokens, at) } else { Some(at) }) else {
            return Ok(None);
        };
        let by_time = is_word(tokens, kind, &["SYSTEM_TIME", "TIMESTAMP"]);
        if !by_time && !is_word(tokens, kind, &["SYSTEM_VERSION", "VERSION"]) {
            return Ok(None);
        }
        let following =
            |at: usize, word| next(tokens, at).filter(|at| is_word(tokens, *at, &[word]));
        let Some(of) = following(kind, "AS").and_then(|at| following(at, "OF")) else {
            return Ok(None);
        };
        let start = tokens[at].span.start;
        let location = Location {
            line: start.line,
            column: start.column,
        };
        let Some((state, value)) = state(tokens, of, by_time, with_for.then_some(location))? else {
            return Ok(None);
        };
        let Some(name) = previous(tokens, at) else {
            return Ok(None);
        };
        let clause = Self {
            name,
            end: value + 1,
            state,
            location,
        };
        Ok(Some(clause))
    }
}

/// What is written after `OF`, as it is added to a name, and its place. With a place for the message it has
/// to be there; else the words may be something else, such as a column that is called so.
fn state(
    tokens: &[TokenWithSpan],
    of: usize,
    by_time: bool,
    must_be: Option<Location>,
) -> Result<Option<(String, usize)>, Error> {
    let mut value = next(tokens, of);
    if by_time && value.is_some_and(|value| is_word(tokens, value, &["TIMESTAMP"])) {
        value = value.and_then(|value| next(tokens, value));
    }
    match (by_time, value.map(|value| (value, &tokens[value].token))) {
        (false, Some((value, Token::Number(id, _))))
            if id.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Ok(Some((format!("{VERSION}{id}"), value)))
        }
        (true, Some((value, Token::SingleQuotedString(time)))) => {
            Ok(Some((format!("{TIME}{}", millis(time)?), value)))
        }
        (by_time, _) => match must_be {
            None => Ok(None),
            Some(location) if by_time => Err(expected(
                "a time in quotes, such as '2026-11-21T10:00:00Z'",
                location,
            )),
            Some(location) => Err(expected("the number of a snapshot", location)),
        },
    }
}

fn expected(what: &str, location: Location) -> Error {
    Error::Syntax {
        message: format!("AS OF takes {what}, written out"),
        location: Some(location),
    }
}

fn misplaced(location: Option<Location>) -> Error {
    Error::Syntax {
        message: "AS OF goes after the name of a table, before its alias".to_owned(),
        location,
    }
}

fn is_word(tokens: &[TokenWithSpan], at: usize, words: &[&str]) -> bool {
    matches!(&tokens[at].token, Token::Word(Word { value, quote_style: None, .. })
        if words.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

fn next(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let after = tokens.iter().enumerate().skip(at + 1);
    let mut meant = after.filter(|(_, token)| !matches!(token.token, Token::Whitespace(_)));
    meant.next().map(|(place, _)| place)
}

fn previous(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let before = &tokens[..at];
    before
        .iter()
        .rposition(|token| !matches!(token.token, Token::Whitespace(_)))
}

/// Lets the columns of tables of the past be called by the name of the table, and refuses what is not the
/// name of a table: there are to be `count` of them.
pub(crate) fn name_tables(parsed: &mut ParsedStatement, count: usize) -> Result<(), Error> {
    if count == 0 {
        return Ok(());
    }
    let sql = match parsed {
        ParsedStatement::Statement(sql) => sql,
        ParsedStatement::Explain(explain) => return name_tables(&mut explain.statement, count),
        ParsedStatement::CreateExternalTable(_)
        | ParsedStatement::CopyTo(_)
        | ParsedStatement::Reset(_) => return Ok(()),
    };
    let mut names = Names(0);
    let _: ControlFlow<()> = sql.visit(&mut names);
    match names.0 >= count {
        true => Ok(()),
        false => Err(misplaced(None)),
    }
}

/// Counts the names of the past.
struct Names(usize);

/// The name of the table in a name of the past.
fn table_of(name: &ObjectName) -> Option<&str> {
    let Some(ObjectNamePart::Identifier(last)) = name.0.last() else {
        return None;
    };
    let state = |mark| last.value.rsplit_once(mark);
    state(VERSION)
        .or_else(|| state(TIME))
        .map(|(table, _)| table)
}

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        self.0 += usize::from(table_of(relation).is_some());
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table {
            name,
            alias: alias @ None,
            ..
        } = factor
            && let Some(table) = table_of(name)
        {
            *alias = Some(TableAlias {
                explicit: true,
                name: Ident::with_quote('"', table),
                columns: Vec::new(),
                at: None,
            });
        }
        ControlFlow::Continue(())
    }
}
