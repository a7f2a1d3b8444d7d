//! A corpus of frames: what is legal is read and written back, what is not is refused with the right code, however
//! the stream is cut. Names are the rules, with their statements (5.0 unless they say v311).

mod frame;

use bytes::BytesMut;
use frame::Reader::{Client, Fresh, Server};
use frame::{Reader, bytes, decode, decode_byte_by_byte};
use meridian_mqtt::codec::{Decoder, PACKET_BYTES_MAX, encode};
use meridian_mqtt::packet::Packet;
use meridian_mqtt::packet::Version::{V5, V311};
use meridian_mqtt::reason::ReasonCode::{self, *};

fn legal(reader: Reader, text: &str) -> Packet {
    let frame = bytes(text);
    let packet = decode(reader, &frame)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .expect("the frame is whole");
    assert_eq!(
        decode_byte_by_byte(reader, &frame),
        Ok(Some(packet.clone()))
    );
    let version = match (&packet, reader) {
        (Packet::Connect(connect), _) => connect.version,
        (_, Server(version) | Client(version)) => version,
        (_, Fresh) => unreachable!("a server's first packet is a CONNECT"),
    };
    let mut written = BytesMut::new();
    encode(&packet, version, PACKET_BYTES_MAX, &mut written).expect("what was read can be written");
    assert_eq!(
        decode(reader, &written),
        Ok(Some(packet.clone())),
        "{written:02x?}"
    );
    packet
}

fn refused(reader: Reader, text: &str, reason: ReasonCode) {
    let frame = bytes(text);
    let error = decode(reader, &frame).expect_err(text);
    assert_eq!(error.reason, reason, "{text}: {error}");
    assert_eq!(decode_byte_by_byte(reader, &frame), Err(error), "{text}");
}

macro_rules! legal {
    ($($name:ident: $reader:expr, $frame:literal;)+) => { $(#[test] fn $name() { legal($reader, $frame); })+ };
}

macro_rules! refused {
    ($($name:ident: $reader:expr, $frame:literal => $reason:expr;)+) => {
        $(#[test] fn $name() { refused($reader, $frame, $reason); })+
    };
}

legal! {
    connect_v311_with_clean_session_mqtt_3_1_2_6: Fresh, "10 L 'MQTT' 04 02 003c 'c'";
    connect_v5_without_a_client_identifier_mqtt_3_1_3_6: Fresh, "10 L 'MQTT' 05 00 0000 00 ''";
    connect_v311_without_a_client_identifier_mqtt_3_1_3_7: Fresh, "10 L 'MQTT' 04 02 0000 ''";
    connect_with_everything_mqtt_3_1: Fresh,
        "10 L 'MQTT' 05 f6 000a {11 0000000a 21 000a 27 00001000 22 0005 19 01 17 00 26 'k' 'v' 15 'm' 16 'd'} \
         'c' {18 00000005 01 01 02 00000009 03 ''} 'w/t' 'bye' 'user' 'pw'";
    a_v5_password_without_a_user_name_mqtt_3_1_2_9: Fresh, "10 L 'MQTT' 05 42 003c 00 'c' 'secret'";
    a_password_that_is_not_utf8_mqtt_3_1_3_5: Fresh, "10 L 'MQTT' 04 c2 003c 'c' 'u' 0002 fffe";
    an_empty_user_name_is_present_mqtt_3_1_2_16: Fresh, "10 L 'MQTT' 04 82 003c 'c' ''";
    an_empty_will_payload_mqtt_3_1_3_11: Fresh, "10 L 'MQTT' 04 06 003c 'c' 'w' ''";
    connack_v311_accepted_mqtt_3_2_2_4: Client(V311), "20 02 01 00";
    connack_v311_refused_mqtt_3_2_2_6: Client(V311), "20 02 00 05";
    connack_v5_with_everything_mqtt_3_2_2: Client(V5),
        "20 L 00 00 {11 00000001 21 0002 24 01 25 00 27 00001000 12 'i' 22 0003 1f 'r' 26 'a' 'b' 28 00 29 00 2a 00 \
         13 0014 1a 'ri' 1c 's' 15 'm' 16 'd'}";
    publish_v311_qos_0_without_payload_mqtt_3_3: Server(V311), "30 L 'a/b'";
    publish_v311_qos_1_mqtt_2_2_1_3: Server(V311), "32 L 'a/b' 0001 6869";
    publish_v311_qos_2_dup_retain_mqtt_3_3_1_1: Server(V311), "3d L 'a/b' ffff 00ff";
    publish_v5_with_properties_mqtt_3_3_2: Server(V5),
        "32 L 'a' 0001 {01 00 02 00000001 03 't' 08 'r/t' 09 0002 00ff 26 'k' 'v' 26 'k' 'w' 23 0001} 70";
    a_message_expiry_of_zero_mqtt_3_3_2_3_3: Server(V5), "30 L 'a' 05 02 00000000 70";
    an_alias_stands_for_an_empty_topic_mqtt_3_3_2_1: Server(V5), "30 L '' 03 23 0001 70";
    several_subscription_identifiers_from_a_server_mqtt_3_3_4_3: Client(V5), "30 L 'a' {0b 01 0b ffff7f}";
    a_dollar_topic_is_well_formed_mqtt_4_7_2: Server(V5), "30 L '$SYS/x' 00";
    a_byte_order_mark_in_a_topic_mqtt_1_5_4_3: Server(V5), "30 L 0004 efbbbf61 00";
    a_topic_of_one_separator_mqtt_4_7_3: Server(V5), "30 L '/' 00";
    puback_v311_mqtt_3_4: Server(V311), "40 02 0001";
    puback_v5_short_mqtt_3_4_2_1: Server(V5), "40 02 0001";
    puback_v5_with_a_reason_mqtt_3_4_2_1: Server(V5), "40 03 0001 10";
    pubrec_v5_with_properties_mqtt_3_5_2: Server(V5), "50 L 0001 97 0b 1f 'q' 26 'a' 'b'";
    pubrel_mqtt_3_6_1_1: Server(V5), "62 02 0001";
    pubcomp_not_found_mqtt_3_7_2_1: Server(V5), "70 03 0001 92";
    subscribe_v311_two_filters_mqtt_3_8_3: Server(V311), "82 L 0001 'a/#' 00 '+/b' 02";
    subscribe_v5_all_options_mqtt_3_8_3_1: Server(V5), "82 L 0001 03 0b 8001 'a' 2e 'b' 19";
    subscribe_shared_mqtt_4_8_2: Server(V5), "82 L 0001 00 '$share/g/a/#' 01";
    suback_v5_mqtt_3_9_3: Client(V5), "90 L 0001 00 00 01 02 80 8f 97";
    suback_v311_mqtt_3_9_3_2: Client(V311), "90 L 0001 00 01 02 80";
    unsubscribe_mqtt_3_10: Server(V5), "a2 L 0001 07 26 'a' 'b' 'a/#'";
    unsuback_v311_has_no_payload_mqtt_3_11: Client(V311), "b0 02 0001";
    unsuback_v5_mqtt_3_11_3: Client(V5), "b0 L 0001 00 00 11";
    pingreq_mqtt_3_12: Server(V5), "c0 00";
    pingresp_mqtt_3_13: Client(V311), "d0 00";
    disconnect_v311_mqtt_3_14: Server(V311), "e0 00";
    disconnect_v5_without_anything_mqtt_3_14_2_1: Server(V5), "e0 00";
    disconnect_v5_with_will_mqtt_3_14_2_1: Server(V5), "e0 01 04";
    disconnect_v5_with_expiry_mqtt_3_14_2_2: Server(V5), "e0 07 00 05 11 00000000";
    disconnect_from_the_server_with_a_reference_mqtt_3_14_2_2_5: Client(V5), "e0 L 9c 04 1c 's'";
    auth_v5_without_anything_mqtt_3_15_2_1: Server(V5), "f0 00";
    auth_v5_continues_mqtt_3_15_2_2: Server(V5), "f0 L 18 08 15 'm' 16 'd'";
    a_padded_length_in_v311_which_has_no_rule_against_it: Server(V311), "c0 80 00";
}

refused! {
    // The fixed header.
    packet_type_0_is_reserved_table_2_1: Server(V5), "00 00" => MalformedPacket;
    packet_type_15_is_reserved_in_v311: Server(V311), "f0 00" => MalformedPacket;
    flags_of_connect_are_zero_mqtt_2_1_3_1: Fresh, "11 L 'MQTT' 04 02 003c 'c'" => MalformedPacket;
    flags_of_puback_are_zero_mqtt_2_1_3_1: Server(V5), "41 02 0001" => MalformedPacket;
    flags_of_pubrel_are_two_mqtt_3_6_1_1: Server(V5), "60 02 0001" => MalformedPacket;
    flags_of_subscribe_are_two_mqtt_3_8_1_1: Server(V5), "80 L 0001 00 'a' 00" => MalformedPacket;
    flags_of_unsubscribe_are_two_mqtt_3_10_1_1: Server(V311), "a0 L 0001 'a'" => MalformedPacket;
    flags_of_pingreq_are_zero_mqtt_2_1_3_1: Server(V311), "c1 00" => MalformedPacket;
    flags_of_disconnect_are_zero_mqtt_3_14_1_1: Server(V5), "e1 00" => MalformedPacket;
    flags_of_auth_are_zero_mqtt_3_15_1_1: Server(V5), "f1 00" => MalformedPacket;
    qos_3_mqtt_3_3_1_4: Server(V5), "36 L 'a' 0001 00" => MalformedPacket;
    dup_with_qos_0_mqtt_3_3_1_2: Server(V311), "38 L 'a'" => MalformedPacket;
    a_length_of_five_bytes_section_1_5_5: Server(V5), "30 80 80 80 80 01" => MalformedPacket;
    a_padded_length_mqtt_1_5_5_1: Server(V5), "c0 80 00" => MalformedPacket;
    a_padded_length_of_a_v5_connect_mqtt_1_5_5_1: Fresh,
        "10 8e 00 'MQTT' 05 02 003c 00 'c'" => MalformedPacket;
    the_first_packet_is_a_connect_mqtt_3_1_0_1: Fresh, "30 ff ff ff 7f" => ProtocolError;
    there_is_no_second_connect_mqtt_3_1_0_2: Server(V5), "10 L 'MQTT' 05 02 003c 00 'c'" => ProtocolError;
    a_client_sends_no_connack_table_2_1: Server(V5), "20 03 00 00 00" => ProtocolError;
    a_client_sends_no_suback_table_2_1: Server(V311), "90 03 0001 00" => ProtocolError;
    a_client_sends_no_unsuback_table_2_1: Server(V311), "b0 02 0001" => ProtocolError;
    a_client_sends_no_pingresp_table_2_1: Server(V5), "d0 00" => ProtocolError;
    a_client_does_not_open_with_connack_table_2_1: Fresh, "40 02 00 01" => ProtocolError;
    a_server_sends_no_subscribe_table_2_1: Client(V5), "82 L 0001 00 'a' 00" => ProtocolError;
    a_v311_server_sends_no_disconnect_table_2_1: Client(V311), "e0 00" => ProtocolError;

    // CONNECT and CONNACK.
    an_unknown_protocol_name_mqtt_3_1_2_1: Fresh, "10 L 'HTTP' 05 02 003c 00 'c'" => UnsupportedProtocolVersion;
    mqtt_3_1_is_not_served_mqtt_3_1_2_2: Fresh, "10 L 'MQIsdp' 03 02 003c 'c'" => UnsupportedProtocolVersion;
    level_6_is_not_served_mqtt_3_1_2_2: Fresh, "10 L 'MQTT' 06 02 003c 00 'c'" => UnsupportedProtocolVersion;
    the_reserved_connect_flag_is_zero_mqtt_3_1_2_3: Fresh, "10 L 'MQTT' 05 03 003c 00 'c'" => MalformedPacket;
    will_qos_without_a_will_mqtt_3_1_2_11: Fresh, "10 L 'MQTT' 05 0a 003c 00 'c'" => MalformedPacket;
    will_retain_without_a_will_mqtt_3_1_2_13: Fresh, "10 L 'MQTT' 04 22 003c 'c'" => MalformedPacket;
    will_qos_3_mqtt_3_1_2_12: Fresh, "10 L 'MQTT' 04 1e 003c 'c' 'w' 'p'" => MalformedPacket;
    a_password_without_a_user_name_mqtt_3_1_2_22_v311: Fresh, "10 L 'MQTT' 04 42 003c 'c' 'p'" => MalformedPacket;
    an_empty_client_identifier_keeps_no_session_mqtt_3_1_3_8_v311: Fresh,
        "10 L 'MQTT' 04 00 003c ''" => ClientIdentifierNotValid;
    a_client_identifier_with_u0000_mqtt_1_5_4_2: Fresh, "10 L 'MQTT' 05 02 003c 00 0002 6100" => MalformedPacket;
    a_user_name_that_is_not_utf8_mqtt_3_1_3_12: Fresh, "10 L 'MQTT' 05 82 003c 00 'c' 0001 ff" => MalformedPacket;
    a_will_that_is_missing_mqtt_3_1_2_9: Fresh, "10 L 'MQTT' 04 06 003c 'c'" => MalformedPacket;
    a_wildcard_in_the_will_topic_mqtt_4_7_1_1: Fresh, "10 L 'MQTT' 05 06 003c 00 'c' 00 'w/#' 'p'" => TopicNameInvalid;
    an_empty_will_topic_mqtt_4_7_3_1: Fresh, "10 L 'MQTT' 05 06 003c 00 'c' 00 '' 'p'" => TopicNameInvalid;
    bytes_behind_connect_section_2_1_4: Fresh, "10 L 'MQTT' 05 02 003c 00 'c' 00" => MalformedPacket;
    an_empty_connect_section_3_1_2: Fresh, "10 00" => MalformedPacket;
    a_receive_maximum_of_zero_section_3_1_2_11_3: Fresh, "10 L 'MQTT' 05 02 003c 03 21 0000 'c'" => ProtocolError;
    a_maximum_packet_size_of_zero_section_3_1_2_11_4: Fresh,
        "10 L 'MQTT' 05 02 003c 05 27 00000000 'c'" => ProtocolError;
    request_problem_information_above_one_section_3_1_2_11_7: Fresh,
        "10 L 'MQTT' 05 02 003c 02 17 02 'c'" => ProtocolError;
    request_response_information_above_one_section_3_1_2_11_6: Fresh,
        "10 L 'MQTT' 05 02 003c 02 19 02 'c'" => ProtocolError;
    session_expiry_twice_section_3_1_2_11_2: Fresh,
        "10 L 'MQTT' 05 02 003c 0a 11 00000001 11 00000001 'c'" => ProtocolError;
    authentication_data_without_a_method_section_3_1_2_11_10: Fresh,
        "10 L 'MQTT' 05 02 003c 04 16 'd' 'c'" => ProtocolError;
    a_will_delay_outside_the_will_section_2_2_2_2: Fresh,
        "10 L 'MQTT' 05 02 003c 05 18 00000001 'c'" => MalformedPacket;
    a_receive_maximum_in_the_will_section_2_2_2_2: Fresh,
        "10 L 'MQTT' 05 06 003c 00 'c' 03 21 0001 'w' 'p'" => MalformedPacket;
    reserved_acknowledge_flags_mqtt_3_2_2_1: Client(V311), "20 02 02 00" => MalformedPacket;
    session_present_on_a_refusal_mqtt_3_2_2_6: Client(V5), "20 03 01 87 00" => ProtocolError;
    a_connack_code_of_another_packet_mqtt_3_2_2_8: Client(V5), "20 03 00 92 00" => ProtocolError;
    a_reserved_return_code_v311_table_3_1: Client(V311), "20 02 00 06" => ProtocolError;
    a_maximum_qos_of_two_section_3_2_2_3_4: Client(V5), "20 05 00 00 02 24 02" => ProtocolError;

    // PUBLISH.
    an_empty_topic_without_an_alias_section_3_3_2_1: Server(V5), "30 L '' 00 70" => ProtocolError;
    an_empty_topic_mqtt_4_7_3_1_v311: Server(V311), "30 L '' 70" => MalformedPacket;
    a_wildcard_in_a_topic_mqtt_3_3_2_2: Server(V5), "30 L 'a/#' 00" => TopicNameInvalid;
    u0000_in_a_topic_mqtt_1_5_4_2: Server(V311), "30 L 0003 610062" => MalformedPacket;
    a_surrogate_in_a_topic_mqtt_1_5_4_1: Server(V5), "30 L 0003 eda080 00" => MalformedPacket;
    a_packet_identifier_of_zero_mqtt_2_2_1_3: Server(V5), "32 L 'a' 0000 00" => MalformedPacket;
    a_missing_packet_identifier_mqtt_2_2_1_2: Server(V311), "32 L 'a'" => MalformedPacket;
    a_topic_past_the_end_section_1_5_4: Server(V311), "30 03 00 05 61" => MalformedPacket;
    properties_past_the_end_section_2_2_2_1: Server(V5), "30 L 'a' 05 01 01" => MalformedPacket;
    a_property_past_the_property_length_section_2_2_2_1: Server(V5), "30 L 'a' 02 03 'abc'" => MalformedPacket;
    a_padded_property_length_mqtt_1_5_5_1: Server(V5), "30 L 'a' 8000" => MalformedPacket;
    a_property_length_of_five_bytes_section_1_5_5: Server(V5), "30 L 'a' 8080808001" => MalformedPacket;
    an_unknown_property_section_2_2_2_2: Server(V5), "30 L 'a' 02 7f 00" => MalformedPacket;
    a_property_of_another_packet_section_2_2_2_2: Server(V5), "30 L 'a' 05 11 00000000" => MalformedPacket;
    a_payload_format_above_one_section_3_3_2_3_2: Server(V5), "30 L 'a' 02 01 02" => ProtocolError;
    a_topic_alias_of_zero_mqtt_3_3_2_8: Server(V5), "30 L 'a' 03 23 0000" => TopicAliasInvalid;
    a_topic_alias_twice_section_3_3_2_3_4: Server(V5), "30 L 'a' 06 23 0001 23 0001" => ProtocolError;
    a_subscription_identifier_from_a_client_mqtt_3_3_4_6: Server(V5), "30 L 'a' 02 0b 01" => ProtocolError;
    a_subscription_identifier_of_zero_section_3_3_2_3_8: Client(V5), "30 L 'a' 02 0b 00" => ProtocolError;
    a_wildcard_in_the_response_topic_mqtt_3_3_2_14: Server(V5), "30 L 'a' 06 08 'r/+'" => ProtocolError;

    // Acknowledgements.
    a_puback_of_packet_zero_mqtt_2_2_1_3: Server(V5), "40 02 0000" => MalformedPacket;
    a_puback_that_is_too_short_section_3_4_2: Server(V311), "40 01 00" => MalformedPacket;
    a_puback_v311_with_a_reason_section_3_4_2: Server(V311), "40 03 0001 00" => MalformedPacket;
    a_puback_with_an_unknown_reason_mqtt_3_4_2_1: Server(V5), "40 03 0001 01" => ProtocolError;
    a_pubrel_with_a_reason_of_puback_mqtt_3_6_2_1: Server(V5), "62 03 0001 97" => ProtocolError;
    a_reason_string_twice_section_3_4_2_2_2: Server(V5), "40 L 0001 00 08 1f 'a' 1f 'b'" => ProtocolError;

    // SUBSCRIBE and UNSUBSCRIBE.
    a_subscribe_without_a_filter_mqtt_3_8_3_2: Server(V5), "82 L 0001 00" => ProtocolError;
    a_subscribe_of_packet_zero_mqtt_2_2_1_3: Server(V5), "82 L 0000 00 'a' 00" => MalformedPacket;
    a_filter_without_options_section_3_8_3: Server(V5), "82 L 0001 00 'a'" => MalformedPacket;
    reserved_option_bits_mqtt_3_8_3_5: Server(V5), "82 L 0001 00 'a' 40" => MalformedPacket;
    reserved_option_bits_mqtt_3_8_3_4_v311: Server(V311), "82 L 0001 'a' 04" => MalformedPacket;
    a_subscription_of_qos_3_section_3_8_3_1: Server(V5), "82 L 0001 00 'a' 03" => ProtocolError;
    retain_handling_3_section_3_8_3_1: Server(V5), "82 L 0001 00 'a' 30" => ProtocolError;
    no_local_on_a_shared_subscription_mqtt_3_8_3_4: Server(V5), "82 L 0001 00 '$share/g/a' 04" => ProtocolError;
    subscription_identifier_zero_section_3_8_2_1_2: Server(V5), "82 L 0001 02 0b 00 'a' 00" => ProtocolError;
    subscription_identifier_twice_section_3_8_2_1_2: Server(V5), "82 L 0001 04 0b 01 0b 02 'a' 00" => ProtocolError;
    u0000_in_a_filter_mqtt_1_5_4_2: Server(V5), "82 L 0001 00 0003 610062 00" => MalformedPacket;
    an_unsubscribe_without_a_filter_mqtt_3_10_3_2: Server(V311), "a2 02 0001" => ProtocolError;
    a_suback_without_a_code_mqtt_3_8_4_5: Client(V311), "90 02 0001" => ProtocolError;
    a_suback_with_a_reserved_code_mqtt_3_9_3_2: Client(V311), "90 03 0001 03" => ProtocolError;
    an_unsuback_v311_with_codes_section_3_11: Client(V311), "b0 03 0001 00" => MalformedPacket;

    // The rest.
    a_pingreq_with_a_body_section_3_12: Server(V5), "c0 01 00" => MalformedPacket;
    a_disconnect_v311_with_a_body_section_3_14: Server(V311), "e0 01 00" => MalformedPacket;
    a_disconnect_reason_of_servers_mqtt_3_14_2_1: Server(V5), "e0 01 8b" => ProtocolError;
    a_session_expiry_from_the_server_mqtt_3_14_2_2: Client(V5), "e0 07 00 05 11 00000000" => ProtocolError;
    a_server_reference_from_a_client_section_3_14_2_2_5: Server(V5), "e0 L 00 04 1c 's'" => ProtocolError;
    an_auth_reason_of_others_mqtt_3_15_2_1: Server(V5), "f0 L 01 04 15 'm'" => ProtocolError;
    an_auth_without_a_method_section_3_15_2_2_2: Server(V5), "f0 02 18 00" => ProtocolError;
}

#[test]
fn an_invalid_filter_spares_its_neighbours_mqtt_3_8_4() {
    let packet = legal(
        Server(V5),
        "82 L 0001 00 'a/#/b' 00 'ok' 01 '' 00 '$share//a' 00",
    );
    let Packet::Subscribe(subscribe) = packet else {
        panic!("{packet:?}")
    };
    let valid = subscribe
        .filters
        .iter()
        .map(|subscription| subscription.filter.is_ok())
        .collect::<Vec<_>>();
    assert_eq!(valid, [false, true, false, false]);
    assert_eq!(
        subscribe.filters[0].filter,
        Err("a/#/b".try_into().expect("a text"))
    );
}

#[test]
fn a_refused_connect_tells_the_version_to_answer_in_mqtt_3_1_4_1() {
    let answer = |frame| decode(Fresh, &bytes(frame)).expect_err(frame).version;
    assert_eq!(answer("10 L 'MQTT' 06 02 003c 00 'c'"), Some(V5));
    assert_eq!(answer("10 L 'MQIsdp' 03 02 003c 'c'"), Some(V311));
    assert_eq!(answer("10 L 'MQTT' 05 03 003c 00 'c'"), Some(V5));
    assert_eq!(answer("10 L 'MQTT' 04 00 003c ''"), Some(V311));
    assert_eq!(
        answer("10 04 0002 0000"),
        None,
        "not even the protocol name can be read"
    );
    assert_eq!(answer("30 00"), None);
}

#[test]
fn a_packet_too_large_is_refused_by_its_header_alone_mqtt_3_1_2_24() {
    let mut decoder = Decoder::server(1 << 20);
    let mut buffer = BytesMut::from(&[0x10, 0xff, 0xff, 0xff, 0x7f][..]);
    assert_eq!(
        decoder.decode(&mut buffer).map_err(|e| e.reason),
        Err(PacketTooLarge)
    );

    let mut decoder = Decoder::client(V5, 10);
    let mut fits = BytesMut::from(&bytes("30 L 'abcd' 00 70")[..]);
    assert_eq!(fits.len(), 10);
    assert!(matches!(decoder.decode(&mut fits), Ok(Some(_))));
    let mut larger = BytesMut::from(&bytes("30 L 'abcd' 00 7070")[..2]);
    assert_eq!(
        decoder.decode(&mut larger).map_err(|e| e.reason),
        Err(PacketTooLarge)
    );
}

#[test]
fn before_connect_a_packet_has_at_most_64_kib_and_nothing_is_reserved_for_it() {
    let mut decoder = Decoder::server(PACKET_BYTES_MAX);
    let mut buffer = BytesMut::from(&[0x10, 0x80, 0x80, 0x04][..]);
    assert_eq!(
        decoder.decode(&mut buffer).map_err(|e| e.reason),
        Err(PacketTooLarge)
    );

    let mut decoder = Server(V5).decoder();
    let mut buffer = BytesMut::from(&[0x30, 0xff, 0xff, 0xff, 0x7f][..]);
    let capacity = buffer.capacity();
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!(buffer.capacity(), capacity);
}

#[test]
fn topic_and_payload_are_slices_of_the_read_buffer() {
    let frame = bytes("32 L 'gps/eu/t1/position' 0001 00 70617966");
    let mut buffer = BytesMut::from(&frame[..]);
    let read = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
    let Ok(Some(Packet::Publish(publish))) = Server(V5).decoder().decode(&mut buffer) else {
        panic!("legal")
    };
    assert!(read.contains(&(publish.payload.as_ptr() as usize)));
    assert!(read.contains(&(publish.topic.expect("a topic").as_str().as_ptr() as usize)));
}

#[test]
fn packets_behind_each_other_are_cut_one_by_one() {
    let mut decoder = Decoder::server(PACKET_BYTES_MAX);
    let mut buffer = BytesMut::from(&bytes("10 L 'MQTT' 05 02 003c 00 'c'")[..]);
    buffer.extend_from_slice(&bytes("30 L 'a' 00 70"));
    buffer.extend_from_slice(&bytes("c0 00 e0"));
    assert!(matches!(
        decoder.decode(&mut buffer),
        Ok(Some(Packet::Connect(_)))
    ));
    assert_eq!(decoder.version(), Some(V5));
    assert!(matches!(
        decoder.decode(&mut buffer),
        Ok(Some(Packet::Publish(_)))
    ));
    assert_eq!(decoder.decode(&mut buffer), Ok(Some(Packet::PingReq)));
    assert_eq!(
        decoder.decode(&mut buffer),
        Ok(None),
        "e0 is the beginning of a DISCONNECT"
    );
}
