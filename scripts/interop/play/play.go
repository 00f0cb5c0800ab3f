// Package play is the command line over the scenarios, for any make of client.
package play

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"kiteq/interop/client"
	"kiteq/interop/scenarios"
	"kiteq/interop/wire"
)

// Main plays the scenarios with clients of one make.
func Main(make client.Make) {
	if err := run(make); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(make client.Make) error {
	protoDirectory := flag.String("proto", "../../proto", "directory of kiteq.proto")
	registry := flag.String("registry", "", "file://PATH or zk://HOST:PORT of the broker")
	address := flag.String("broker", "", "HOST:PORT under which the broker is in the registry")
	recoverSeconds := flag.Int("recoverSeconds", 1, "the broker's recover period")
	only := flag.String("only", "", "run the scenarios whose names contain this")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: interop [flags] topics|yaml|run|withdrawn")
		flag.PrintDefaults()
	}
	flag.Parse()
	all := scenarios.All()
	switch flag.Arg(0) {
	case "topics":
		fmt.Println(strings.Join(topics(all), ","))
		return nil
	case "yaml":
		return printYAML(*address, all)
	case "run":
		codec, err := wire.LoadCodec(*protoDirectory, "kiteq.proto")
		if err != nil {
			return err
		}
		setting := scenarios.Setting{Make: make, Codec: codec, Registry: *registry, RecoverPeriod: time.Duration(*recoverSeconds) * time.Second}
		return playAll(all, setting, *address, *only)
	case "withdrawn":
		return withdrawn(*registry, *address, topics(all))
	default:
		flag.Usage()
		os.Exit(2)
		return nil
	}
}

func topics(all []scenarios.Scenario) []string {
	var topics []string
	for _, scenario := range all {
		topics = append(topics, scenario.Topic())
	}
	// The existing Go client looks a topic up in a registry file by halving its list.
	slices.Sort(topics)
	return topics
}

func printYAML(address string, all []scenarios.Scenario) error {
	var bindings []client.Binding
	for _, scenario := range all {
		bindings = append(bindings, scenario.Bindings...)
	}
	text, err := client.FileRegistryYAML(address, topics(all), bindings)
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
}

func playAll(all []scenarios.Scenario, setting scenarios.Setting, address, only string) error {
	kind, _, _ := strings.Cut(setting.Registry, ":")
	passed, failed, skipped := 0, 0, 0
	report := func(name, expected, seen string, err error) {
		verdict := "PASS"
		if err != nil {
			verdict, seen = "FAIL", strings.ReplaceAll(err.Error(), "\n", "; ")
			failed++
		} else {
			passed++
		}
		fmt.Printf("%s  %-4s %-22s expected: %s\n%33s seen: %s\n", verdict, kind, name, expected, "", seen)
	}
	if kind == "zk" && strings.Contains("registration", only) {
		seen, err := registration(setting.Registry, address, topics(all))
		report("registration", "every topic, alive_servers ephemeral, all_servers persistent", seen, err)
	}
	for _, scenario := range all {
		if !strings.Contains(scenario.Name, only) {
			continue
		}
		if scenario.Needs != nil && !scenario.Needs(setting.Make.Can) {
			skipped++
			fmt.Printf("SKIP  %-4s %-22s the %s cannot play this\n", kind, scenario.Name, setting.Make.Name)
		} else {
			seen, err := scenarios.Play(scenario, setting)
			report(scenario.Name, scenario.Expected, seen, err)
		}
	}
	fmt.Printf("%s, %s: %d passed, %d failed, %d skipped\n", setting.Make.Name, kind, passed, failed, skipped)
	if failed > 0 || (passed == 0 && only == "") {
		return fmt.Errorf("%d of %d scenarios failed over %s", failed, passed+failed, setting.Registry)
	}
	return nil
}

func registration(uri, address string, topics []string) (string, error) {
	registry, err := client.OpenRegistry(uri, false)
	if err != nil {
		return "", err
	}
	defer registry.Close()
	expected := client.ExpectedNodes(address, topics)
	// A broker that found ZooKeeper late is ready with the first of its nodes.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		nodes, err := client.BrokerNodes(registry, address, topics)
		if err != nil || slices.Equal(nodes, expected) {
			return fmt.Sprintf("%d nodes", len(nodes)), err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("nodes %v instead of %v", nodes, expected)
		}
	}
}

// withdrawn fails while a stopped broker's ephemeral nodes are still there.
func withdrawn(uri, address string, topics []string) error {
	registry, err := client.OpenRegistry(uri, false)
	if err != nil {
		return err
	}
	defer registry.Close()
	nodes, err := client.BrokerNodes(registry, address, topics)
	if err != nil {
		return err
	}
	if expected := client.ExpectedNodes(address, nil)[1:]; !slices.Equal(nodes, expected) {
		return fmt.Errorf("after the broker stopped, its nodes are %v instead of %v", nodes, expected)
	}
	fmt.Printf("PASS  zk   %-22s expected: a stopping broker withdraws at once\n%33s seen: only all_servers is left\n", "withdrawal", "")
	return nil
}
