// The source protocol of Apache Flume: what the bridge speaks to a Flume Thrift source.
namespace java org.apache.flume.thrift

struct ThriftFlumeEvent {
  1: required map<string, string> headers,
  2: required binary body,
}

enum Status {
  OK = 0,
  FAILED = 1,
  ERROR = 2,
  UNKNOWN = 3,
}

service ThriftSourceProtocol {
  Status append(1: ThriftFlumeEvent event),
  // OK means that the whole batch is in Flume's channel; anything else, that none of it can be counted on.
  Status appendBatch(1: list<ThriftFlumeEvent> events),
}
