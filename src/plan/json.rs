//! Tapes and plans as JSON: versioned, and the same after a round trip, to the bit.
//!
//! Reads what it writes, with any spaces and order of keys; not meant for other JSON.

use super::Plan;
use super::gaps::Gaps;
use super::search::METHODS;
use super::simulate::State;
use super::steps::Step;
use super::tape::{Event, Op, Tape, Value, ValueId};
use crate::error::{Error, Result};
use std::fmt::Write;

const VERSION: u64 = 1;

/// Numbers stay text until their type is known: a u64 has more digits than an f64 can hold.
enum Json {
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn bad(text: impl Into<String>) -> Error {
    Error::value(format!("json: {}", text.into()))
}

impl Tape {
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"kind\":\"tape\",\"version\":{VERSION},\"base\":{},\n\"values\":[", self.base);
        list(&mut out, &self.values, |out, v| write!(out, "[{},{}]", v.bytes, v.maker));
        out.push_str("],\n\"ops\":[");
        list(&mut out, &self.ops, |out, op| {
            out.push_str("\n{\"name\":");
            quote(out, &op.name);
            out.push_str(",\"module\":");
            quote(out, &op.module);
            write!(out, ",\"forward\":{},\"cost\":{:?},\"reads\":[", op.forward, op.cost)?;
            list(out, &op.reads, |out, v| write!(out, "{}", v.0));
            out.push_str("],\"inner\":[");
            list(out, &op.inner, event);
            out.push_str("],\"outer\":[");
            list(out, &op.outer, event);
            out.push_str("]}");
            Ok(())
        });
        out.push_str("]}\n");
        out
    }

    /// Errors where the text is no tape, or the tape is not well formed.
    pub fn from_json(text: &str) -> Result<Tape> {
        let json = document(text, "tape")?;
        let values = json.get("values")?.list()?.iter().map(|v| {
            let [bytes, maker] = v.list()? else { return Err(bad("a value is not [bytes, maker]")) };
            Ok(Value { bytes: bytes.number()?, maker: maker.number()? })
        });
        let tape = Tape {
            base: json.get("base")?.number()?,
            values: values.collect::<Result<_>>()?,
            ops: json.get("ops")?.list()?.iter().map(op).collect::<Result<_>>()?,
        };
        Gaps::of(&tape).map_err(|e| bad(e.text()))?;
        Ok(tape)
    }
}

impl Plan {
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"kind\":\"plan\",\"version\":{VERSION},\"method\":");
        quote(&mut out, self.method);
        let Plan { lean, peak, recompute, base, .. } = self;
        let head =
            format!(",\"lean\":{lean},\"peak\":{peak},\"recompute\":{recompute:?},\"base\":{base:?},\"states\":[");
        out.push_str(&head);
        list(&mut out, &self.states, |out, s| write!(out, "{}", s.0));
        out.push_str("],\"steps\":[");
        list(&mut out, &self.steps, |out, s| write!(out, "[{},{},{}]", s.before, s.value.0, s.make));
        out.push_str("]}\n");
        out
    }

    pub fn from_json(text: &str) -> Result<Plan> {
        let json = document(text, "plan")?;
        let name = json.get("method")?.text()?;
        let method = METHODS.iter().find(|m| **m == name).ok_or_else(|| bad(format!("unknown method {name:?}")))?;
        Ok(Plan {
            steps: json.get("steps")?.list()?.iter().map(step).collect::<Result<_>>()?,
            states: json.get("states")?.list()?.iter().map(|s| Ok(State(s.number()?))).collect::<Result<_>>()?,
            lean: json.get("lean")?.bool()?,
            peak: json.get("peak")?.number()?,
            recompute: json.get("recompute")?.number()?,
            base: json.get("base")?.number()?,
            method,
        })
    }
}

fn step(json: &Json) -> Result<Step> {
    let [before, value, make] = json.list()? else { return Err(bad("a step of other than three parts".to_string())) };
    Ok(Step { before: before.number()?, value: ValueId(value.number()?), make: make.bool()? })
}

fn event(out: &mut String, event: &Event) -> std::fmt::Result {
    match event {
        Event::Alloc(bytes) => write!(out, "[\"alloc\",{bytes}]"),
        Event::Free(bytes) => write!(out, "[\"free\",{bytes}]"),
        Event::Make(v) => write!(out, "[\"make\",{}]", v.0),
        Event::Unpin(v) => write!(out, "[\"unpin\",{}]", v.0),
        Event::Release(v) => write!(out, "[\"release\",{}]", v.0),
    }
}

fn op(json: &Json) -> Result<Op> {
    let events = |key: &str| {
        json.get(key)?
            .list()?
            .iter()
            .map(|e| {
                let [kind, number] = e.list()? else { return Err(bad("an event is not [kind, number]")) };
                let value = || number.number().map(ValueId);
                Ok(match kind.text()? {
                    "alloc" => Event::Alloc(number.number()?),
                    "free" => Event::Free(number.number()?),
                    "make" => Event::Make(value()?),
                    "unpin" => Event::Unpin(value()?),
                    "release" => Event::Release(value()?),
                    other => return Err(bad(format!("unknown event {other:?}"))),
                })
            })
            .collect::<Result<Vec<Event>>>()
    };
    Ok(Op {
        name: json.get("name")?.text()?.to_string(),
        module: json.get("module")?.text()?.to_string(),
        cost: json.get("cost")?.number()?,
        forward: json.get("forward")?.bool()?,
        reads: json.get("reads")?.list()?.iter().map(|v| v.number().map(ValueId)).collect::<Result<_>>()?,
        inner: events("inner")?,
        outer: events("outer")?,
    })
}

fn list<T>(out: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T) -> std::fmt::Result) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item).expect("bug: a string takes all text");
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn document(text: &str, kind: &str) -> Result<Json> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let json = reader.value(0)?;
    reader.space();
    if reader.at != text.len() {
        return Err(reader.bad("more text after its end"));
    }
    let (found, version) = (json.get("kind")?.text()?, json.get("version")?.number::<u64>()?);
    if found != kind {
        return Err(bad(format!("a {found}; a {kind} would be right")));
    }
    if version != VERSION {
        return Err(bad(format!("version {version} of a {kind}; this program reads version {VERSION}")));
    }
    Ok(json)
}

impl Json {
    fn get(&self, key: &str) -> Result<&Json> {
        let Json::Object(pairs) = self else { return Err(bad(format!("no object where {key:?} is looked for"))) };
        let found = pairs.iter().find(|(k, _)| k == key);
        found.map(|(_, v)| v).ok_or_else(|| bad(format!("{key:?} is missing")))
    }

    fn list(&self) -> Result<&[Json]> {
        if let Json::List(items) = self { Ok(items) } else { Err(bad("not a list where one is due")) }
    }

    fn text(&self) -> Result<&str> {
        if let Json::Text(text) = self { Ok(text) } else { Err(bad("not a text where one is due")) }
    }

    fn bool(&self) -> Result<bool> {
        if let Json::Bool(truth) = self { Ok(*truth) } else { Err(bad("not true or false where one is due")) }
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T> {
        let Json::Number(text) = self else { return Err(bad("not a number where one is due")) };
        text.parse().map_err(|_| bad(format!("{text} is no number of its kind")))
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bad(&self, what: &str) -> Error {
        bad(format!("{what}, at byte {}", self.at))
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Goes past a byte if it is next.
    fn is(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth > 16 {
            return Err(self.bad("nested too deep"));
        }
        if self.is(b'"') {
            return Ok(Json::Text(self.rest_of_text()?));
        }
        if self.is(b'[') {
            let mut items = vec![];
            while !self.is(b']') {
                if !items.is_empty() && !self.is(b',') {
                    return Err(self.bad("no comma in a list"));
                }
                items.push(self.value(depth + 1)?);
            }
            return Ok(Json::List(items));
        }
        if self.is(b'{') {
            let mut pairs = vec![];
            while !self.is(b'}') {
                if !pairs.is_empty() && !self.is(b',') {
                    return Err(self.bad("no comma in an object"));
                }
                if !self.is(b'"') {
                    return Err(self.bad("no key"));
                }
                let key = self.rest_of_text()?;
                if !self.is(b':') {
                    return Err(self.bad("no colon after a key"));
                }
                pairs.push((key, self.value(depth + 1)?));
            }
            return Ok(Json::Object(pairs));
        }
        let from = self.at;
        while self.text.get(self.at).is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
            self.at += 1;
        }
        match &self.text[from..self.at] {
            b"true" => Ok(Json::Bool(true)),
            b"false" => Ok(Json::Bool(false)),
            word if word.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-') => {
                Ok(Json::Number(String::from_utf8_lossy(word).into_owned()))
            }
            _ => Err(self.bad("no value")),
        }
    }

    fn rest_of_text(&mut self) -> Result<String> {
        let mut bytes = vec![];
        loop {
            let Some(&byte) = self.text.get(self.at) else { return Err(self.bad("a text without its end")) };
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(bytes).map_err(|_| self.bad("a text that is not UTF-8")),
                b'\\' => {
                    let c = self.escaped().ok_or_else(|| self.bad("an unknown escape"))?;
                    bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
                }
                byte => bytes.push(byte),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        Some(match byte {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let digits = std::str::from_utf8(self.text.get(self.at..self.at + 4)?).ok()?;
                self.at += 4;
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            b'"' | b'\\' | b'/' => byte as char,
            _ => return None,
        })
    }
}
