//! A machine for the pickles of `torch.save`: it builds tensors, dictionaries, lists, tuples, numbers and text, and
//! refuses anything else by name. Nothing is executed.
//!
//! Covers the binary opcodes of protocols 2 to 5 (Python's `pickletools`). Text stays where it is in the pickle, and the
//! numbers of instructions, containers and remembered values are limited, so that memory grows with the file only.

use std::collections::HashMap;

use super::problem::WeightsProblem;
use super::torch::{Callable, Storage, TensorRecord};

/// Pickles beyond this are refused: that of a checkpoint of ten thousand tensors has about two megabytes.
pub(crate) const MAX_PICKLE: u64 = 64 << 20;
const MAX_INSTRUCTIONS: usize = 8 << 20;
const MAX_NODES: usize = 2 << 20;
const MAX_MEMO: usize = 2 << 20;
const MAX_TENSORS: usize = 1 << 20;

/// A value on the stack; containers are referred to by number, so that copies and cycles cost nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// `None`, and numbers and bytes that nothing here needs.
    Nothing,
    Bool(bool),
    Int(i64),
    /// Where in the pickle the text is; checked to be UTF-8.
    Text(Span),
    Node(u32),
    Callable(Callable),
    Storage(u32),
    Tensor(u32),
}

/// A range of bytes of the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

/// A container.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

/// What a pickle came to.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    bytes: &'a [u8],
    /// What `torch.load` would return.
    pub root: Value,
    pub nodes: Vec<Node>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<TensorRecord>,
}

impl Pickle<'_> {
    /// The text of a span.
    pub fn text(&self, span: Span) -> &str {
        let range = span.start as usize..span.start as usize + span.len as usize;
        std::str::from_utf8(&self.bytes[range]).unwrap_or_default()
    }

    /// The elements of a tuple or a list.
    pub fn sequence(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Node(index) => match &self.nodes[index as usize] {
                Node::Tuple(items) | Node::List(items) => Some(items),
                Node::Dict(_) => None,
            },
            _ => None,
        }
    }
}

impl Pickle<'_> {
    /// Adds a storage.
    pub fn add_storage(&mut self, storage: Storage) -> Result<Value, WeightsProblem> {
        if self.storages.len() >= MAX_TENSORS {
            return Err(WeightsProblem::too_large("the number of storages", format!("{MAX_TENSORS}")));
        }
        self.storages.push(storage);
        Ok(Value::Storage(self.storages.len() as u32 - 1))
    }

    /// Adds a tensor.
    pub fn add_tensor(&mut self, tensor: TensorRecord) -> Result<Value, WeightsProblem> {
        if self.tensors.len() >= MAX_TENSORS {
            return Err(WeightsProblem::too_large("the number of tensors", format!("{MAX_TENSORS}")));
        }
        self.tensors.push(tensor);
        Ok(Value::Tensor(self.tensors.len() as u32 - 1))
    }
}

/// Parses a pickle.
///
/// # Errors
/// A pickle that ends early, contradicts itself, is too large, or asks for anything but tensors (by name).
pub(crate) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, WeightsProblem> {
    let out = Pickle { bytes, root: Value::Nothing, nodes: vec![], storages: vec![], tensors: vec![] };
    let mut machine = Machine { at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), out };
    for _ in 0..MAX_INSTRUCTIONS {
        if machine.step()? {
            machine.out.root = machine.pop()?;
            return Ok(machine.out);
        }
    }
    Err(WeightsProblem::too_large("the number of instructions of its pickle", format!("{MAX_INSTRUCTIONS}")))
}

struct Machine<'a> {
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    out: Pickle<'a>,
}

type Done<T> = Result<T, WeightsProblem>;

fn damaged(what: &str) -> WeightsProblem {
    WeightsProblem::damaged(format!("its pickle {what}"))
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Done<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.out.bytes.len());
        let end = end.ok_or_else(|| WeightsProblem::truncated("the end of its pickle"))?;
        let bytes = &self.out.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Done<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn pop(&mut self) -> Done<Value> {
        // What lies below a mark belongs to a container that is not closed yet.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(damaged("takes a value from an empty stack"));
        }
        self.stack.pop().ok_or_else(|| damaged("takes a value from an empty stack"))
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Done<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("closes a container that was not opened"))?;
        Ok(self.stack.split_off(mark))
    }

    fn node(&mut self, node: Node) -> Done<()> {
        if self.out.nodes.len() >= MAX_NODES {
            return Err(WeightsProblem::too_large("the number of containers in its pickle", format!("{MAX_NODES}")));
        }
        self.stack.push(Value::Node(self.out.nodes.len() as u32));
        self.out.nodes.push(node);
        Ok(())
    }

    fn text(&mut self, len: u64) -> Done<()> {
        let start = self.at;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).map_err(|_| damaged("has text that is not UTF-8"))?;
        self.stack.push(Value::Text(Span { start: start as u32, len: bytes.len() as u32 }));
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Done<()> {
        self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        self.stack.push(Value::Nothing);
        Ok(())
    }

    /// A signed number of any width; one that needs more than 8 bytes becomes [`Value::Nothing`].
    fn long(&mut self, len: u64) -> Done<()> {
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        self.stack.push(match bytes.len() {
            0 => Value::Int(0),
            len @ 1..=8 => {
                let sign = if bytes[len - 1] & 0x80 == 0 { 0 } else { u8::MAX };
                let mut whole = [sign; 8];
                whole[..len].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            _ => Value::Nothing,
        });
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Done<()> {
        if self.memo.len() >= MAX_MEMO {
            return Err(WeightsProblem::too_large("the number of remembered values", format!("{MAX_MEMO}")));
        }
        let top = self.stack.last().copied().ok_or_else(|| damaged("remembers a value of an empty stack"))?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Done<()> {
        let value = self.memo.get(&key).copied().ok_or_else(|| damaged("recalls a value it did not remember"))?;
        self.stack.push(value);
        Ok(())
    }

    fn line(&mut self) -> Done<&'a str> {
        let rest = &self.out.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| WeightsProblem::truncated("the end of its pickle"))?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| damaged("has a name that is not UTF-8"))
    }

    fn tuple(&mut self, len: usize) -> Done<()> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.node(Node::Tuple(items))
    }

    /// The container on top of the stack, below the items that are put into it.
    fn top_node(&mut self) -> Done<&mut Node> {
        match self.stack.last() {
            Some(&Value::Node(index)) => Ok(&mut self.out.nodes[index as usize]),
            _ => Err(damaged("fills something that is no container")),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Done<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            _ => return Err(damaged("appends to something that is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Value]) -> Done<()> {
        if !items.len().is_multiple_of(2) {
            return Err(damaged("sets a key without a value"));
        }
        match self.top_node()? {
            Node::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(damaged("sets a key of something that is no dictionary")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Done<()> {
        let callable = Callable::find(module, name).ok_or_else(|| {
            let full: String = format!("{module}.{name}").chars().take(120).collect();
            WeightsProblem::Refused { name: full }
        })?;
        self.stack.push(Value::Callable(callable));
        Ok(())
    }

    fn reduce(&mut self) -> Done<()> {
        let arguments = self.pop()?;
        let Value::Callable(callable) = self.pop()? else {
            return Err(damaged("calls something that cannot be called"));
        };
        match callable {
            Callable::OrderedDict => match self.out.sequence(arguments) {
                Some([]) => self.node(Node::Dict(vec![])),
                // As Python 2 did. Copying the same list again and again would let memory outgrow the file.
                _ => Err(WeightsProblem::NotRead { what: "its pickle has a dictionary made from a list".into() }),
            },
            Callable::Storage(_) => Err(WeightsProblem::Refused { name: "torch storage without its data".into() }),
            other => {
                let value = other.call(&mut self.out, arguments)?;
                self.stack.push(value);
                Ok(())
            }
        }
    }

    /// One instruction; true at the end.
    fn step(&mut self) -> Done<bool> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(true),
            0x80 => {
                let protocol = self.take(1)?[0];
                if !(2..=5).contains(&protocol) {
                    return Err(WeightsProblem::NotRead { what: format!("its pickle has protocol {protocol}") });
                }
            }
            0x95 => {
                self.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'}' => self.node(Node::Dict(vec![]))?,
            b']' => self.node(Node::List(vec![]))?,
            b')' => self.node(Node::Tuple(vec![]))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.node(Node::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.node(Node::List(items))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.node(Node::Dict(vec![]))?;
                self.set(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            b'N' => self.stack.push(Value::Nothing),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.stack.push(Value::Int(i64::from(value)));
            }
            b'K' => {
                let value = self.number(1)?;
                self.stack.push(Value::Int(value as i64));
            }
            b'M' => {
                let value = self.number(2)?;
                self.stack.push(Value::Int(value as i64));
            }
            0x8a => {
                let len = self.number(1)?;
                self.long(len)?;
            }
            0x8b => {
                let len = self.number(4)?;
                self.long(len)?;
            }
            b'G' => self.skip(8)?,
            b'X' => {
                let len = self.number(4)?;
                self.text(len)?;
            }
            0x8c => {
                let len = self.number(1)?;
                self.text(len)?;
            }
            0x8d => {
                let len = self.number(8)?;
                self.text(len)?;
            }
            b'U' | b'C' => {
                let len = self.number(1)?;
                self.skip(len)?;
            }
            b'T' | b'B' => {
                let len = self.number(4)?;
                self.skip(len)?;
            }
            0x8e | 0x96 => {
                let len = self.number(8)?;
                self.skip(len)?;
            }
            b'q' => {
                let key = self.number(1)?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number(4)?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let key = self.number(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(name), Value::Text(module)) = (name, module) else {
                    return Err(damaged("asks for an object whose name is no text"));
                };
                let (module, name) = (self.out.text(module).to_owned(), self.out.text(name).to_owned());
                self.global(&module, &name)?;
            }
            b'R' => self.reduce()?,
            // The attributes of a dictionary, such as the version numbers that PyTorch adds to a state dict.
            b'b' => {
                self.pop()?;
                if !matches!(self.top_node()?, Node::Dict(_)) {
                    return Err(damaged("sets the attributes of something that is no dictionary"));
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = Storage::of_persistent_id(&self.out, id)?;
                let value = self.out.add_storage(storage)?;
                self.stack.push(value);
            }
            other => {
                let what =
                    format!("its pickle has instruction {other:#04x}, which torch.save does not use for tensors");
                return Err(WeightsProblem::NotRead { what });
            }
        }
        Ok(false)
    }
}
