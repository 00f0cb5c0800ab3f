module kiteq/interop/existing

go 1.23

// ../run copies this directory and adds github.com/blackbeans/kiteq-client-go at the commit that it names: only the go
// command can turn that commit into a version, and only where the module can be downloaded.
require kiteq/interop v0.0.0

replace kiteq/interop => ../
