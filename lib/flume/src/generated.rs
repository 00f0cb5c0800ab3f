// Made from thrift/flume.thrift by scripts/generate-thrift with: Thrift version 0.17.0.
// Do not edit: change the source or the script, and run it again.

#![allow(missing_docs, unreachable_pub, unused_imports)]
#![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::semicolon_if_nothing_returned)]
#![allow(clippy::uninlined_format_args)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::{From, TryFrom};
use std::default::Default;
use std::error::Error;
use std::fmt;
use std::fmt::{Display, Formatter};
use std::rc::Rc;

use thrift::OrderedFloat;
use thrift::{ApplicationError, ApplicationErrorKind, ProtocolError, ProtocolErrorKind, TThriftClient};
use thrift::protocol::{TFieldIdentifier, TListIdentifier, TMapIdentifier, TMessageIdentifier, TMessageType, TInputProtocol, TOutputProtocol, TSerializable, TSetIdentifier, TStructIdentifier, TType};
use thrift::protocol::field_id;
use thrift::protocol::verify_expected_message_type;
use thrift::protocol::verify_expected_sequence_number;
use thrift::protocol::verify_expected_service_call;
use thrift::protocol::verify_required_field_exists;

#[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Status(pub i32);

impl Status {
  pub const OK: Status = Status(0);
  pub const FAILED: Status = Status(1);
  pub const ERROR: Status = Status(2);
  pub const UNKNOWN: Status = Status(3);
  pub const ENUM_VALUES: &'static [Self] = &[
    Self::OK,
    Self::FAILED,
    Self::ERROR,
    Self::UNKNOWN,
  ];
}

impl TSerializable for Status {
  #[allow(clippy::trivially_copy_pass_by_ref)]
  fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    o_prot.write_i32(self.0)
  }
  fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<Status> {
    let enum_value = i_prot.read_i32()?;
    Ok(Status::from(enum_value))
  }
}

impl From<i32> for Status {
  fn from(i: i32) -> Self {
    match i {
      0 => Status::OK,
      1 => Status::FAILED,
      2 => Status::ERROR,
      3 => Status::UNKNOWN,
      _ => Status(i)
    }
  }
}

impl From<&i32> for Status {
  fn from(i: &i32) -> Self {
    Status::from(*i)
  }
}

impl From<Status> for i32 {
  fn from(e: Status) -> i32 {
    e.0
  }
}

impl From<&Status> for i32 {
  fn from(e: &Status) -> i32 {
    e.0
  }
}

//
// ThriftFlumeEvent
//

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThriftFlumeEvent {
  pub headers: BTreeMap<String, String>,
  pub body: Vec<u8>,
}

impl ThriftFlumeEvent {
  pub fn new(headers: BTreeMap<String, String>, body: Vec<u8>) -> ThriftFlumeEvent {
    ThriftFlumeEvent {
      headers,
      body,
    }
  }
}

impl TSerializable for ThriftFlumeEvent {
  fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<ThriftFlumeEvent> {
    i_prot.read_struct_begin()?;
    let mut f_1: Option<BTreeMap<String, String>> = None;
    let mut f_2: Option<Vec<u8>> = None;
    loop {
      let field_ident = i_prot.read_field_begin()?;
      if field_ident.field_type == TType::Stop {
        break;
      }
      let field_id = field_id(&field_ident)?;
      match field_id {
        1 => {
          let map_ident = i_prot.read_map_begin()?;
          let mut val: BTreeMap<String, String> = BTreeMap::new();
          for _ in 0..map_ident.size {
            let map_key_0 = i_prot.read_string()?;
            let map_val_1 = i_prot.read_string()?;
            val.insert(map_key_0, map_val_1);
          }
          i_prot.read_map_end()?;
          f_1 = Some(val);
        },
        2 => {
          let val = i_prot.read_bytes()?;
          f_2 = Some(val);
        },
        _ => {
          i_prot.skip(field_ident.field_type)?;
        },
      };
      i_prot.read_field_end()?;
    }
    i_prot.read_struct_end()?;
    verify_required_field_exists("ThriftFlumeEvent.headers", &f_1)?;
    verify_required_field_exists("ThriftFlumeEvent.body", &f_2)?;
    let ret = ThriftFlumeEvent {
      headers: f_1.expect("auto-generated code should have checked for presence of required fields"),
      body: f_2.expect("auto-generated code should have checked for presence of required fields"),
    };
    Ok(ret)
  }
  fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let struct_ident = TStructIdentifier::new("ThriftFlumeEvent");
    o_prot.write_struct_begin(&struct_ident)?;
    o_prot.write_field_begin(&TFieldIdentifier::new("headers", TType::Map, 1))?;
    o_prot.write_map_begin(&TMapIdentifier::new(TType::String, TType::String, self.headers.len() as i32))?;
    for (k, v) in &self.headers {
      o_prot.write_string(k)?;
      o_prot.write_string(v)?;
    }
    o_prot.write_map_end()?;
    o_prot.write_field_end()?;
    o_prot.write_field_begin(&TFieldIdentifier::new("body", TType::String, 2))?;
    o_prot.write_bytes(&self.body)?;
    o_prot.write_field_end()?;
    o_prot.write_field_stop()?;
    o_prot.write_struct_end()
  }
}

//
// ThriftSourceProtocolAppendArgs
//

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThriftSourceProtocolAppendArgs {
  pub event: ThriftFlumeEvent,
}

impl ThriftSourceProtocolAppendArgs {
  pub fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<ThriftSourceProtocolAppendArgs> {
    i_prot.read_struct_begin()?;
    let mut f_1: Option<ThriftFlumeEvent> = None;
    loop {
      let field_ident = i_prot.read_field_begin()?;
      if field_ident.field_type == TType::Stop {
        break;
      }
      let field_id = field_id(&field_ident)?;
      match field_id {
        1 => {
          let val = ThriftFlumeEvent::read_from_in_protocol(i_prot)?;
          f_1 = Some(val);
        },
        _ => {
          i_prot.skip(field_ident.field_type)?;
        },
      };
      i_prot.read_field_end()?;
    }
    i_prot.read_struct_end()?;
    verify_required_field_exists("ThriftSourceProtocolAppendArgs.event", &f_1)?;
    let ret = ThriftSourceProtocolAppendArgs {
      event: f_1.expect("auto-generated code should have checked for presence of required fields"),
    };
    Ok(ret)
  }
  pub fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let struct_ident = TStructIdentifier::new("append_args");
    o_prot.write_struct_begin(&struct_ident)?;
    o_prot.write_field_begin(&TFieldIdentifier::new("event", TType::Struct, 1))?;
    self.event.write_to_out_protocol(o_prot)?;
    o_prot.write_field_end()?;
    o_prot.write_field_stop()?;
    o_prot.write_struct_end()
  }
}

//
// ThriftSourceProtocolAppendResult
//

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThriftSourceProtocolAppendResult {
  pub result_value: Option<Status>,
}

impl ThriftSourceProtocolAppendResult {
  pub fn ok_or(self) -> thrift::Result<Status> {
    if self.result_value.is_some() {
      Ok(self.result_value.unwrap())
    } else {
      Err(
        thrift::Error::Application(
          ApplicationError::new(
            ApplicationErrorKind::MissingResult,
            "no result received for ThriftSourceProtocolAppend"
          )
        )
      )
    }
  }
  pub fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<ThriftSourceProtocolAppendResult> {
    i_prot.read_struct_begin()?;
    let mut f_0: Option<Status> = None;
    loop {
      let field_ident = i_prot.read_field_begin()?;
      if field_ident.field_type == TType::Stop {
        break;
      }
      let field_id = field_id(&field_ident)?;
      match field_id {
        0 => {
          let val = Status::read_from_in_protocol(i_prot)?;
          f_0 = Some(val);
        },
        _ => {
          i_prot.skip(field_ident.field_type)?;
        },
      };
      i_prot.read_field_end()?;
    }
    i_prot.read_struct_end()?;
    let ret = ThriftSourceProtocolAppendResult {
      result_value: f_0,
    };
    Ok(ret)
  }
  pub fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let struct_ident = TStructIdentifier::new("ThriftSourceProtocolAppendResult");
    o_prot.write_struct_begin(&struct_ident)?;
    if let Some(ref fld_var) = self.result_value {
      o_prot.write_field_begin(&TFieldIdentifier::new("result_value", TType::I32, 0))?;
      fld_var.write_to_out_protocol(o_prot)?;
      o_prot.write_field_end()?
    }
    o_prot.write_field_stop()?;
    o_prot.write_struct_end()
  }
}

//
// ThriftSourceProtocolAppendBatchArgs
//

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThriftSourceProtocolAppendBatchArgs {
  pub events: Vec<ThriftFlumeEvent>,
}

impl ThriftSourceProtocolAppendBatchArgs {
  pub fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<ThriftSourceProtocolAppendBatchArgs> {
    i_prot.read_struct_begin()?;
    let mut f_1: Option<Vec<ThriftFlumeEvent>> = None;
    loop {
      let field_ident = i_prot.read_field_begin()?;
      if field_ident.field_type == TType::Stop {
        break;
      }
      let field_id = field_id(&field_ident)?;
      match field_id {
        1 => {
          let list_ident = i_prot.read_list_begin()?;
          let mut val: Vec<ThriftFlumeEvent> = Vec::with_capacity(list_ident.size as usize);
          for _ in 0..list_ident.size {
            let list_elem_2 = ThriftFlumeEvent::read_from_in_protocol(i_prot)?;
            val.push(list_elem_2);
          }
          i_prot.read_list_end()?;
          f_1 = Some(val);
        },
        _ => {
          i_prot.skip(field_ident.field_type)?;
        },
      };
      i_prot.read_field_end()?;
    }
    i_prot.read_struct_end()?;
    verify_required_field_exists("ThriftSourceProtocolAppendBatchArgs.events", &f_1)?;
    let ret = ThriftSourceProtocolAppendBatchArgs {
      events: f_1.expect("auto-generated code should have checked for presence of required fields"),
    };
    Ok(ret)
  }
  pub fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let struct_ident = TStructIdentifier::new("appendBatch_args");
    o_prot.write_struct_begin(&struct_ident)?;
    o_prot.write_field_begin(&TFieldIdentifier::new("events", TType::List, 1))?;
    o_prot.write_list_begin(&TListIdentifier::new(TType::Struct, self.events.len() as i32))?;
    for e in &self.events {
      e.write_to_out_protocol(o_prot)?;
    }
    o_prot.write_list_end()?;
    o_prot.write_field_end()?;
    o_prot.write_field_stop()?;
    o_prot.write_struct_end()
  }
}

//
// ThriftSourceProtocolAppendBatchResult
//

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThriftSourceProtocolAppendBatchResult {
  pub result_value: Option<Status>,
}

impl ThriftSourceProtocolAppendBatchResult {
  pub fn ok_or(self) -> thrift::Result<Status> {
    if self.result_value.is_some() {
      Ok(self.result_value.unwrap())
    } else {
      Err(
        thrift::Error::Application(
          ApplicationError::new(
            ApplicationErrorKind::MissingResult,
            "no result received for ThriftSourceProtocolAppendBatch"
          )
        )
      )
    }
  }
  pub fn read_from_in_protocol(i_prot: &mut dyn TInputProtocol) -> thrift::Result<ThriftSourceProtocolAppendBatchResult> {
    i_prot.read_struct_begin()?;
    let mut f_0: Option<Status> = None;
    loop {
      let field_ident = i_prot.read_field_begin()?;
      if field_ident.field_type == TType::Stop {
        break;
      }
      let field_id = field_id(&field_ident)?;
      match field_id {
        0 => {
          let val = Status::read_from_in_protocol(i_prot)?;
          f_0 = Some(val);
        },
        _ => {
          i_prot.skip(field_ident.field_type)?;
        },
      };
      i_prot.read_field_end()?;
    }
    i_prot.read_struct_end()?;
    let ret = ThriftSourceProtocolAppendBatchResult {
      result_value: f_0,
    };
    Ok(ret)
  }
  pub fn write_to_out_protocol(&self, o_prot: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let struct_ident = TStructIdentifier::new("ThriftSourceProtocolAppendBatchResult");
    o_prot.write_struct_begin(&struct_ident)?;
    if let Some(ref fld_var) = self.result_value {
      o_prot.write_field_begin(&TFieldIdentifier::new("result_value", TType::I32, 0))?;
      fld_var.write_to_out_protocol(o_prot)?;
      o_prot.write_field_end()?
    }
    o_prot.write_field_stop()?;
    o_prot.write_struct_end()
  }
}

