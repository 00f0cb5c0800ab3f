module kiteq/interop

go 1.23

require (
	github.com/bufbuild/protocompile v0.14.1
	github.com/go-zookeeper/zk v1.0.4
	github.com/golang/snappy v1.0.0
	google.golang.org/protobuf v1.36.12
	gopkg.in/yaml.v3 v3.0.1
)

require golang.org/x/sync v0.8.0 // indirect
