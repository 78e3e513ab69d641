"""The message bus between coordinator and agents: requests on Redis streams, replies on lists."""
