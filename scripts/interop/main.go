// Interop plays a Go client of ours against a running broker. See README.md; scripts/interop/run runs it.
package main

import (
	"kiteq/interop/client"
	"kiteq/interop/play"
)

func main() { play.Main(client.StandIn) }
