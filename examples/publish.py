"""Publishes events to a Pub/Sub topic, as a program of your own would: README.md has commands.

  python publish.py [--structured] PROJECT TOPIC EVENT.json...

Each file is a CloudEvent. The program gives it an id and a time of its own.
"""
import argparse
import datetime
import json
import uuid

from google.cloud import pubsub_v1  # finds the emulator by PUBSUB_EMULATOR_HOST


def message(event, is_structured):
    """Returns data and attributes: the event's own, or the whole event as the data."""
    if is_structured:
        return json.dumps(event).encode(), {"content-type": "application/cloudevents+json"}
    attributes = {f"ce-{name}": value for name, value in event.items() if name not in ("data", "datacontenttype")}
    attributes["content-type"] = event.get("datacontenttype", "application/json")
    return json.dumps(event["data"]).encode(), attributes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--structured", action="store_true")
    parser.add_argument("project")
    parser.add_argument("topic")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    options = pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    publisher = pubsub_v1.PublisherClient(publisher_options=options)
    topic = publisher.topic_path(arguments.project, arguments.topic)
    for file in arguments.files:
        with open(file, encoding="utf-8") as text:
            event = json.load(text)
        event["id"] = str(uuid.uuid4())
        event["time"] = datetime.datetime.now(datetime.timezone.utc).isoformat()
        data, attributes = message(event, arguments.structured)
        # Events with one key arrive in the order in which they are published.
        publisher.publish(topic, data, ordering_key=event["subject"], **attributes).result()
        print(f"published {event['type']} {event['id']}", flush=True)


main()
